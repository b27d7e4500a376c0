"""Reduces a text to characters that every grapheme-to-phoneme converter accepts."""

from __future__ import annotations

import unicodedata

_PUNCTUATION = frozenset(" .,!?;:'。，！？；：、")


def plain_text(text: str) -> str:
    """Reduce a text to letters, ASCII digits and common punctuation, in compatibility form (NFKC).

    Diacritics are removed; every other character becomes a space.
    """
    spelled = unicodedata.normalize(
        "NFKC", "".join(_plain(character) for character in unicodedata.normalize("NFKD", text))
    )
    return " ".join(spelled.split())


def _plain(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.combining(character):
        return ""
    # int() rejects digits that aren't decimal
    return (
        character if character in _PUNCTUATION or (character.isalpha() and not character.isdigit()) else " "
    )
