"""Text to ids, from the published `tokenizer.model`. Knows no prompt.

The vocabulary mixes text with control tokens (`<|EOT|>`), byte tokens, and 9,216 codes written `<audio_N>`.
Which of two things a text is makes all the difference:

    trusted   ours; control tokens in it are what they say
    a user's  `<|EOT|>` in it is six characters to be read out, and can't end a turn
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models

from stepaudiod.editx.checkpoint import protobuf as wire
from stepaudiod.editx.checkpoint.headers import mend
from stepaudiod.editx.codes import VOCABULARY
from stepaudiod.errors import ModelFileError

WORD_MARK = "▁"
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
Segment = str | Sequence[int]
"""A stretch of a prompt: ordinary text, or ids."""


class TextTokenizer:
    """The published unigram vocabulary with byte fallback.

    Args:
        path: `tokenizer.model`.

    Raises:
        ModelFileError: it is missing, or isn't this model's vocabulary.
    """

    def __init__(self, path: Path) -> None:
        pieces = _read_pieces(path)
        self._control = {
            piece: index
            for index, (piece, _, kind) in enumerate(pieces)
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        }
        # A control token must not be found inside ordinary text, so in there its entry is a string that can't
        # occur.
        vocabulary = [
            (f"\x00{index}" if piece in self._control and index else piece, score)
            for index, (piece, score, _) in enumerate(pieces)
        ]
        self._text = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
        longest_first = sorted((piece for piece in self._control), key=len, reverse=True)
        others = "|".join(re.escape(piece) for piece in longest_first if not piece.startswith("<audio_"))
        self._control_pattern = re.compile(rf"<audio_[0-9]+>|{others}")

    def encode(self, text: str) -> list[int]:
        """Encode trusted text, in which control tokens are recognised, exact and case-sensitive; no BOS."""
        return self.encode_segments(list(self._sections(text)))

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Encode a prompt of ordinary text and ids; neighbouring texts are encoded as one.

        Args:
            segments: strings, in which nothing is special, and sequences of ids.

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
                ids += self._encode_plain(joined, is_first=not opened)
            opened = opened or bool(joined) or len(segment) > 0
            ids += segment
            pending.clear()
        return ids

    def sections(self, text: str) -> list[Segment]:
        """Cut trusted text into ordinary stretches and the ids of its control tokens."""
        return list(self._sections(text))

    def _sections(self, text: str) -> Iterator[Segment]:
        position = 0
        for match in self._control_pattern.finditer(text):
            index = self._control.get(match.group())
            if index is None:  # <audio_99999> has no id: ordinary text
                continue
            yield text[position : match.start()]
            yield [index]
            position = match.end()
        yield text[position:]

    def _encode_plain(self, text: str, is_first: bool) -> list[int]:
        # the vocabulary's stand-ins for control tokens hold NUL, which no text may then match; a lone
        # surrogate, which JSON can write, has no bytes to fall back to
        marked = _NO_TEXT.sub("\ufffd", text).replace(" ", WORD_MARK)
        if is_first and not marked.startswith(WORD_MARK):
            marked = WORD_MARK + marked
        ids: list[int] = self._text.encode(marked, add_special_tokens=False).ids
        return ids


def _read_pieces(path: Path) -> list[tuple[str, float, int]]:
    """Read (piece, score, kind) of each entry of a SentencePiece model."""
    try:
        buffer = memoryview(path.read_bytes())
        pieces = [_read_piece(wire.view(value)) for number, _, value in wire.fields(buffer) if number == 1]
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; {mend()}") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} is no SentencePiece model: {error}; {mend()}") from error
    if len(pieces) != VOCABULARY:
        raise ModelFileError(f"{path}: expected {VOCABULARY} pieces, found {len(pieces)}; {mend()}")
    return pieces


def _read_piece(buffer: memoryview) -> tuple[str, float, int]:
    piece, score, kind = "", 0.0, 1
    for number, _, value in wire.fields(buffer):
        if number == 1:
            piece = wire.text(value)
        elif number == 2:
            score = wire.float32(value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return piece, score, kind
