"""Splits a sentence into runs of one language, with symbols and numbers spelled out.

"iPhone 15 Pro Max卖¥9,999。"  ──►  en "iPhone 15 Pro Max"  zh "卖九千九百九十九元。"
"""

from __future__ import annotations

from collections.abc import Iterator

from stepaudiod.text.normalize import clean, normalize_chinese, normalize_english
from stepaudiod.text.scripts import Run, runs


def spoken_runs(text: str, main: str) -> Iterator[Run]:
    """Split a sentence, whose main language is given, by language and spell out symbols and numbers.

    In a Chinese sentence a single Latin word belongs to the Chinese around it ("H100", "5G", "80GB"): its
    digits are read in Chinese. Several words with a number between them are English.
    """
    text = clean(text)
    if main != "zh":
        for run in runs(text, main):
            spelled = normalize_chinese(run.text) if run.language == "zh" else normalize_english(run.text)
            yield Run(run.language, spelled)
        return
    chinese = ""
    for run in runs(text, main):
        if run.language == "en" and _is_phrase(run.text):
            yield from _chinese_runs(chinese)
            chinese = ""
            yield Run("en", normalize_english(run.text))
        else:
            chinese += run.text
    yield from _chinese_runs(chinese)


def _is_phrase(text: str) -> bool:
    return sum(word[:1].isalpha() and len(word) > 1 for word in text.split()) > 1


def _chinese_runs(text: str) -> Iterator[Run]:
    if not text.strip():
        return
    for run in runs(normalize_chinese(text), "zh"):
        yield run if run.language == "zh" else Run("en", normalize_english(run.text))
