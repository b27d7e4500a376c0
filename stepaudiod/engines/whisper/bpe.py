"""Tokens of the byte-level vocabulary that GPT-2 and Whisper share: into text, into words, and from text.

Each of the 256 bytes is written as a printable character: "Ġ" is a space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
"""Splits text before tokenising: the vocabulary's own expression, in the syntax of the standard library."""

WITHOUT_SPACES = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km"})
"""Languages without spaces between words: each of their characters counts as one."""


class Spelling:
    def __init__(self) -> None:
        plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in plain]
        self.characters = {byte: chr(byte) for byte in plain}
        self.characters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
        self._bytes = {character: byte for byte, character in self.characters.items()}

    def text(self, tokens: Sequence[str]) -> str:
        """The text of tokens; an incomplete character becomes U+FFFD."""
        return self._join(tokens).decode("utf-8", "replace")

    def words(self, tokens: Sequence[str], language: str) -> list[tuple[str, int]]:
        """Words with the punctuation after them, and the number of tokens of each."""
        words: list[tuple[str, int]] = []
        for text, count in self._characters(tokens):
            is_next = text.startswith(" ") or (language in WITHOUT_SPACES and text.strip().isalnum())
            if not words or is_next:
                words.append((text, count))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1] + count)
        return [(text.strip(), count) for text, count in words]

    def _characters(self, tokens: Sequence[str]) -> list[tuple[str, int]]:
        """The shortest runs of tokens that form whole characters."""
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
        return bytes(self._bytes[character] for character in "".join(tokens) if character in self._bytes)


class Merges:
    """Splits text into tokens by the merges in a `tokenizer.json`.

    Raises:
        OSError, ValueError, KeyError: the file can't be read as one.
    """

    def __init__(self, path: Path, spelling: Spelling) -> None:
        pairs = json.loads(path.read_text("utf-8"))["model"]["merges"]
        split = (pair.split(" ") if isinstance(pair, str) else pair for pair in pairs)
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(split)}
        self._characters = spelling.characters

    def tokens(self, text: str) -> list[str]:
        return [token for word in WORDS.findall(text) for token in self._cut(word)]

    def _cut(self, word: str) -> list[str]:
        parts = [self._characters[byte] for byte in word.encode("utf-8", "replace")]
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
