"""A text reduced to what every converter of spelling takes. Knows no converter."""

from __future__ import annotations

import unicodedata

_MARKS = frozenset(" .,!?;:'。，！？；：、")


def plain_text(text: str) -> str:
    """The text in compatibility form (NFKC), with nothing in it but letters, ASCII digits and common marks.

    Marks over letters are taken off; every other sign becomes a space.
    """
    spelled = unicodedata.normalize(
        "NFKC", "".join(_plain(sign) for sign in unicodedata.normalize("NFKD", text))
    )
    return " ".join(spelled.split())


def _plain(sign: str) -> str:
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))
    if unicodedata.combining(sign):
        return ""
    # what is a digit and no decimal one isn't a number to int()
    return sign if sign in _MARKS or (sign.isalpha() and not sign.isdigit()) else " "
