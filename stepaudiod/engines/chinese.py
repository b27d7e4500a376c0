"""Chinese characters to Kokoro's phonemes: jieba's words, pypinyin's readings, misaki's signs."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any


class ChineseG2P:
    """Phonemes of normalised Chinese text: Han characters and marks, no digits.

    Args:
        cache_dir: a private folder. jieba keeps its parsed dictionary there; left alone it would use, and
            trust, a file of a predictable name in the folder that all users share.
    """

    def __init__(self, cache_dir: Path) -> None:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        jieba = _import_jieba()
        from misaki.zh import ZHG2P

        jieba.setLogLevel(logging.WARNING)
        jieba.dt.tmp_dir = str(cache_dir)
        jieba.initialize()
        self._converter: Any = ZHG2P

    def __call__(self, text: str) -> str:
        """Phonemes, words apart."""
        text = self._converter.map_punctuation(text)
        return str(self._converter.legacy_call(text)) if text else ""


def _import_jieba() -> Any:
    """Import jieba without pkg_resources, which takes a quarter of a second and would only open a file."""
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
