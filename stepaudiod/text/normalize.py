"""Written forms into spoken words, where the libraries that do most of it leave a hole."""

from __future__ import annotations

import re
import unicodedata

_UNSPOKEN = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ud800-\udfff]"
)


def clean(text: str) -> str:
    """Take out what has no sound and only confuses: control and zero-width characters, lone surrogates."""
    return unicodedata.normalize("NFC", _UNSPOKEN.sub("", text))


def normalize_english(text: str) -> str:
    """English text in the form that hibari's converter reads best."""
    return clean(text)
