"""Chinese characters to Kokoro's phonemes: jieba's words, pypinyin's readings, misaki's symbols."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from stepaudiod.text.scripts import HAN

_RUNS = re.compile(f"[{HAN}]+|[^{HAN}]+")
_HAN = re.compile(f"[{HAN}]")
_NOT_SYLLABIC = "\u032f"
"""The mark under the second vowel of a diphthong, for which Kokoro has no symbol."""


class ChineseG2P:
    """Phonemes of normalised Chinese text: Han characters and marks, no digits.

    Args:
        cache_dir: a private folder for jieba's parsed dictionary. By default jieba would use, and trust, a
            file with a predictable name in the shared temporary folder.
    """

    def __init__(self, cache_dir: Path) -> None:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        jieba: Any = _import_jieba()
        import pypinyin
        from misaki.zh import ZHG2P

        jieba.setLogLevel(logging.WARNING)
        jieba.dt.tmp_dir = str(cache_dir)
        jieba.initialize()
        self._jieba, self._pypinyin = jieba, pypinyin
        self._converter: Any = ZHG2P

    def __call__(self, text: str) -> str:
        """Phonemes, words apart; other text is unchanged, and characters without a reading are omitted."""
        runs = _RUNS.findall(self._converter.map_punctuation(text))
        return "".join(self._words(each) if _HAN.match(each) else each for each in runs)

    def _words(self, characters: str) -> str:
        """Misaki's `ZHG2P.legacy_call`, without its error for a character without a reading."""
        words = filter(None, map(self._word, self._jieba.lcut(characters)))
        return " ".join(words).replace(_NOT_SYLLABIC, "")

    def _word(self, word: str) -> str:
        readings = self._pypinyin.lazy_pinyin(
            word, style=self._pypinyin.Style.TONE3, neutral_tone_with_five=True, errors="ignore"
        )
        return "".join(self._converter.py2ipa(reading) for reading in readings)


def _import_jieba() -> Any:
    """Import jieba without pkg_resources, which takes a quarter of a second only to open a file."""
    if (loaded := sys.modules.get("jieba")) is not None:
        return loaded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        absent = "pkg_resources" not in sys.modules
        if absent:
            sys.modules["pkg_resources"] = None  # type: ignore[assignment]
        try:
            import jieba
        finally:
            if absent:
                del sys.modules["pkg_resources"]
    return jieba
