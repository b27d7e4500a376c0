"""Text to ids, from the published `tokenizer.model`. Independent of prompts.

The vocabulary mixes text with control tokens (`<|EOT|>`), byte tokens, and 9,216 codes written `<audio_N>`.
Text is never searched for control tokens: `<|EOT|>` in a user's text is six characters to be read out, and
can't end a turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models

from stepaudiod.editx.checkpoint import protobuf
from stepaudiod.editx.checkpoint.headers import mend, reading
from stepaudiod.editx.codes import VOCABULARY
from stepaudiod.errors import ModelFileError

WORD_MARK = "▁"
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
Segment = str | Sequence[int]
"""Part of a prompt: ordinary text, or ids."""


class TextTokenizer:
    """The published unigram vocabulary with byte fallback.

    Raises:
        ModelFileError: the file is missing, or isn't this model's vocabulary.
    """

    def __init__(self, path: Path) -> None:
        pieces = _read_pieces(path)
        self.control = {
            piece: index
            for index, (piece, _, kind) in enumerate(pieces)
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        }
        # In the text vocabulary a control token's entry is a string that can't occur.
        vocabulary = [
            (f"\x00{index}" if piece in self.control and index else piece, score)
            for index, (piece, score, _) in enumerate(pieces)
        ]
        self._text = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))

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
        # NUL would match the entries of control tokens; a lone surrogate, which JSON can write, has no bytes
        # to fall back to
        marked = _NO_TEXT.sub("\ufffd", text).replace(" ", WORD_MARK)
        if is_first and not marked.startswith(WORD_MARK):
            marked = WORD_MARK + marked
        ids: list[int] = self._text.encode(marked, add_special_tokens=False).ids
        return ids


def _read_pieces(path: Path) -> list[tuple[str, float, int]]:
    """Read (piece, score, kind) of each entry of a SentencePiece model."""
    with reading(path, "SentencePiece model", OSError, ValueError):
        buffer = memoryview(path.read_bytes())
        pieces = [
            _read_piece(protobuf.view(value)) for number, _, value in protobuf.fields(buffer) if number == 1
        ]
    if len(pieces) != VOCABULARY:
        raise ModelFileError(f"{path}: expected {VOCABULARY} pieces, found {len(pieces)}; {mend()}")
    return pieces


def _read_piece(buffer: memoryview) -> tuple[str, float, int]:
    piece, score, kind = "", 0.0, 1
    for number, _, value in protobuf.fields(buffer):
        if number == 1:
            piece = protobuf.text(value)
        elif number == 2:
            score = protobuf.float32(value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return piece, score, kind
