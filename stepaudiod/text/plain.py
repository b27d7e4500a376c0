"""Reduces a text to characters that every grapheme-to-phoneme converter accepts."""

from __future__ import annotations

import unicodedata

_PUNCTUATION = frozenset(" .,!?;:'。，！？；：、")


def plain_text(text: str) -> str:
    """Reduce a text to letters, ASCII digits and common punctuation, in compatibility form (NFKC).

    Diacritics are removed; every other character becomes a space.
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
    # int() rejects digits that aren't decimal
    return sign if sign in _PUNCTUATION or (sign.isalpha() and not sign.isdigit()) else " "
