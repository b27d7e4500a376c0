"""Text to ids, from the published `tokenizer.model`. Independent of prompts.

The vocabulary mixes text with control tokens (`<|EOT|>`), byte tokens, and 9,216 codes written `<audio_N>`.
Text is never searched for control tokens: `<|EOT|>` in a user's text is six characters to be read out, and
can't end a turn.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stepaudiod.editx.checkpoint import protobuf
from stepaudiod.editx.checkpoint.headers import mend, reading
from stepaudiod.editx.codes import VOCABULARY
from stepaudiod.errors import ModelFileError

WORD_MARK = "▁"
UNKNOWN = 0
"""The id of what the vocabulary can't spell."""
UNKNOWN_PENALTY = 10.0
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_SCORE = struct.Struct("<f")
_LENGTH_OF_ENTRY = re.compile(rb"\x0a([\x02-\x7f])\x0a([\x00-\x7f])")
"""How nearly every entry begins: its size and its text's, in one byte each."""
Segment = str | Sequence[int]
"""Part of a prompt: ordinary text, or ids."""


class Pieces(NamedTuple):
    """The entries of a vocabulary, by id: text, score, and kind as in SentencePiece's `ModelProto`."""

    texts: list[str]
    scores: list[float]
    kinds: bytes

    def pack(self) -> dict[str, bytes]:
        """The entries in a form that needs no parsing.

        Raises:
            ValueError: a text contains the character that separates them.
        """
        texts = "\0".join(self.texts)
        if texts.count("\0") != len(self.texts) - 1:
            raise ValueError("the vocabulary has an entry with a NUL")
        return {
            "texts": texts.encode(),
            "scores": array("f", self.scores).tobytes(),
            "kinds": self.kinds,
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, bytes]) -> Pieces:
        """The inverse of `pack`."""
        scores = array("f", packed["scores"])
        return cls(packed["texts"].decode().split("\0"), scores.tolist(), packed["kinds"])


class TextTokenizer:
    """The published unigram vocabulary with byte fallback."""

    def __init__(self, pieces: Pieces) -> None:
        texts, self._scores, kinds = pieces
        special = (_UNKNOWN, _CONTROL, _USER_DEFINED)
        self.control = {texts[index]: index for index, kind in enumerate(kinds) if kind in special}
        self._ids = dict(zip(texts, range(len(texts)), strict=True))
        for text, index in self.control.items():
            if index != UNKNOWN:  # as in the published tokenizer, its name is text like any other
                del self._ids[text]
        self._longest: dict[str, int] = {}
        for text in self._ids:
            if len(text) > self._longest.get(text[:1], 1):
                self._longest[text[:1]] = len(text)
        self._bytes = [self._ids.get(f"<0x{byte:02X}>", UNKNOWN) for byte in range(256)]
        self._unknown_score = min(self._scores) - UNKNOWN_PENALTY

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        """Encode a prompt of ordinary text and ids; neighbouring texts are encoded as one.

        Returns:
            The ids. A word mark is put in front only where ordinary text opens the whole prompt.
        """
        ids: list[int] = []
        pending: list[str] = []
        opened = False
        for segment in [*segments, ()]:
            if isinstance(segment, str):
                pending.append(segment)
                continue
            joined = "".join(pending)
            if joined:
                ids += self._encode_text(joined, is_first=not opened)
            opened = opened or bool(joined) or len(segment) > 0
            ids += segment
            pending.clear()
        return ids

    def _encode_text(self, text: str, is_first: bool) -> list[int]:
        # a lone surrogate, which JSON can write, has no bytes to fall back to
        marked = _NO_TEXT.sub("\ufffd", text).replace(" ", WORD_MARK)
        if is_first and not marked.startswith(WORD_MARK):
            marked = WORD_MARK + marked
        ids: list[int] = []
        for piece in self._cut(marked):
            if piece in self._ids:
                ids.append(self._ids[piece])
            else:
                ids += (self._bytes[byte] for byte in piece.encode())
        return ids

    def _cut(self, text: str) -> list[str]:
        """Cut text into the pieces with the highest sum of scores; neighbours without a piece are one.

        Source: SentencePiece's unigram model, as the package `tokenizers` searches it.
        """
        reached = [0.0] + [float("-inf")] * len(text)  # the best sum of scores up to each character
        begins, is_known = [0] * len(reached), [False] * len(reached)  # of the best piece that ends there
        ids, scores = self._ids, self._scores
        for start, character in enumerate(text):
            after = start + 1
            if character not in ids and reached[start] + self._unknown_score > reached[after]:
                reached[after] = reached[start] + self._unknown_score
                begins[after], is_known[after] = start, False
            for end in range(after, min(start + self._longest.get(character, 1), len(text)) + 1):
                found = ids.get(text[start:end])
                if found is not None and reached[start] + scores[found] > reached[end]:
                    reached[end] = reached[start] + scores[found]
                    begins[end], is_known[end] = start, found != UNKNOWN
        pieces: list[str] = []
        end, was_known = len(text), True
        while end:
            start = begins[end]
            if was_known or is_known[end]:
                pieces.append(text[start:end])
            else:
                pieces[-1] = text[start:end] + pieces[-1]
            end, was_known = start, is_known[end]
        return pieces[::-1]


def read_pieces(path: Path) -> Pieces:
    """Read the entries of a SentencePiece model.

    Raises:
        ModelFileError: the file is missing, or isn't this model's vocabulary.
    """
    with reading(path, "SentencePiece model", OSError, ValueError):
        pieces = [*_entries(path.read_bytes())]
    if len(pieces) != VOCABULARY:
        raise ModelFileError(f"{path}: expected {VOCABULARY} pieces, found {len(pieces)}; {mend()}")
    texts, scores, kinds = zip(*pieces, strict=True)
    return Pieces([*texts], [*scores], bytes(kinds))


def _entries(content: bytes) -> Iterator[tuple[str, float, int]]:
    """The text, score and kind of each entry; those that are written as usual are read directly.

    An entry is its text, a float32, and a kind unless that is 1: read field by field, 75,000 of them take a
    fifth of a second.
    """
    position, buffer = 0, memoryview(content)
    while usual := _LENGTH_OF_ENTRY.match(content, position):
        begin, position = position + 2, position + 2 + usual[1][0]
        if position > len(content):
            position = begin - 2  # the fields below report what is missing
            break
        text_end = begin + 2 + usual[2][0]
        rest = position - text_end
        if rest not in (5, 7) or content[text_end] != 0x15 or (rest == 7 and content[text_end + 5] != 0x18):
            yield _entry(buffer[begin:position])
            continue
        text = content[begin + 2 : text_end].decode()
        (score,) = _SCORE.unpack_from(content, text_end + 1)
        yield text, score, content[text_end + 6] if rest == 7 else 1
    for number, _, value in protobuf.fields(buffer[position:]):
        if number == 1:
            yield _entry(protobuf.view(value))


def _entry(buffer: memoryview) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, 1
    for number, _, value in protobuf.fields(buffer):
        if number == 1:
            text = protobuf.text(value)
        elif number == 2:
            score = protobuf.float32(value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind
