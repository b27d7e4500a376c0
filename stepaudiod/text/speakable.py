"""Whether a text has anything to say. Imports nothing heavy: the front asks before any work begins."""

from __future__ import annotations

import re
import unicodedata

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def is_speakable(text: str) -> bool:
    """Whether the text has a letter or a digit of any script.

    A sign that stands for letters, as "㎏" does, counts as they do. Emoji, punctuation and whitespace alone
    are not speakable.
    """
    if _LETTER_OR_DIGIT.search(text) is not None:
        return True
    return _LETTER_OR_DIGIT.search(unicodedata.normalize("NFKC", text)) is not None
