"""A phoneme string split into parts for a voice. Interprets only marks and spaces."""

from __future__ import annotations

import re

_CLAUSE = re.compile(r"[,;:.!?—…]+[”\"]?\s*")


def cut_phonemes(phonemes: str, limit: int) -> list[str]:
    """Parts of at most `limit` characters, cut after a mark, else at a space, else anywhere."""
    parts: list[str] = []
    rest = phonemes.strip()
    while len(rest) > limit:
        marks = [mark.end() for mark in _CLAUSE.finditer(rest, limit // 3, limit)]
        cut = marks[-1] if marks else rest.rfind(" ", limit // 3, limit)
        if cut <= 0:
            cut = limit
        parts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    return [*parts, rest] if rest else parts
