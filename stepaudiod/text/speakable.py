"""Whether a text has anything to pronounce. Imports nothing heavy: the front checks every request."""

from __future__ import annotations

import re
import unicodedata

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def is_speakable(text: str) -> bool:
    """Whether the text has a letter or a digit of any script.

    Symbols for letters count, as "㎏" does. Emoji, punctuation and whitespace alone are not speakable.
    """
    if _LETTER_OR_DIGIT.search(text) is not None:
        return True
    return _LETTER_OR_DIGIT.search(unicodedata.normalize("NFKC", text)) is not None
