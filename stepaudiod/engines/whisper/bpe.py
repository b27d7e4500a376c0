"""Tokens of the byte-level vocabulary that GPT-2 and Whisper share: into text, into words, and from text.

Each of the 256 bytes is written as a sign that can be printed: "Ġ" is a space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
"""What is cut into tokens by itself: the vocabulary's own expression, as the standard library writes it."""

WITHOUT_SPACES = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km"})
"""Languages that put no space between words: each of their signs counts as one."""


class Spelling:
    """Reads tokens."""

    def __init__(self) -> None:
        plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in plain]
        self.signs = {byte: chr(byte) for byte in plain}
        self.signs |= {byte: chr(256 + index) for index, byte in enumerate(others)}
        self._bytes = {sign: byte for byte, sign in self.signs.items()}

    def text(self, tokens: Sequence[str]) -> str:
        """What the tokens say; half a character becomes U+FFFD."""
        return self._join(tokens).decode("utf-8", "replace")

    def words(self, tokens: Sequence[str], language: str) -> list[tuple[str, int]]:
        """Words with the marks behind them, and how many tokens each has; the numbers add up."""
        words: list[tuple[str, int]] = []
        for text, count in self._characters(tokens):
            is_next = text.startswith(" ") or (language in WITHOUT_SPACES and text.strip().isalnum())
            if not words or is_next:
                words.append((text, count))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1] + count)
        return [(text.strip(), count) for text, count in words]

    def _characters(self, tokens: Sequence[str]) -> list[tuple[str, int]]:
        """The shortest runs of tokens that are whole characters."""
        found: list[tuple[str, int]] = []
        start = 0
        for end in range(1, len(tokens) + 1):
            try:
                found.append((self._join(tokens[start:end]).decode("utf-8"), end - start))
            except UnicodeDecodeError:
                continue
            start = end
        if start < len(tokens):
            found.append((self.text(tokens[start:]), len(tokens) - start))
        return found

    def _join(self, tokens: Sequence[str]) -> bytes:
        return bytes(self._bytes[sign] for sign in "".join(tokens) if sign in self._bytes)


class Merges:
    """Cuts text into tokens, by the pairs that the vocabulary joins first.

    Args:
        path: a `tokenizer.json`.
        spelling: how bytes are written.

    Raises:
        OSError, ValueError, KeyError: the file can't be read as one.
    """

    def __init__(self, path: Path, spelling: Spelling) -> None:
        pairs = json.loads(path.read_text("utf-8"))["model"]["merges"]
        split = (pair.split(" ") if isinstance(pair, str) else pair for pair in pairs)
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(split)}
        self._signs = spelling.signs

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text."""
        return [token for word in WORDS.findall(text) for token in self._cut(word)]

    def _cut(self, word: str) -> list[str]:
        parts = [self._signs[byte] for byte in word.encode("utf-8", "replace")]
        while True:
            ranked = [
                (self._ranks[pair], index)
                for index, pair in enumerate(pairwise(parts))
                if pair in self._ranks
            ]
            if not ranked:
                return parts
            at = min(ranked)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
