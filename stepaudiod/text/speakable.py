"""Whether a text has anything to say. Imports nothing heavy: the front asks before any work begins."""

from __future__ import annotations

import re

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def is_speakable(text: str) -> bool:
    """Whether the text has a letter or a digit of any script.

    Emoji, punctuation and whitespace alone are not speakable.
    """
    return _LETTER_OR_DIGIT.search(text) is not None
