"""What a voice or a recording is to the model: codes, a mel, an embedding. Cacheable as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stepaudiod.errors import InvalidRequest
from stepaudiod.model.codes import SECONDS_PER_GROUP, code_ids, to_columns
from stepaudiod.model.flow import Acoustics
from stepaudiod.model.segments import Stretch

VERSION = 1
"""Changes when the tensors' meaning does; a cache of another version is of no use."""


@dataclass(frozen=True)
class Reference:
    """A recording, encoded.

    Args:
        codes: `(n,)` int64, interleaved.
        mel: `(frames, 80)` at 50 Hz.
        embedding: `(192,)`.
        stretch: which part of the recording it is.
        transcript: what that part says, where known.
    """

    codes: Tensor
    mel: Tensor
    embedding: Tensor
    stretch: Stretch
    transcript: str = ""

    @property
    def ids(self) -> list[int]:
        """The codes as the language model's ids."""
        return code_ids(self.codes)

    @property
    def seconds(self) -> float:
        """How long the encoded sound is."""
        return self.codes.shape[0] // 5 * SECONDS_PER_GROUP

    @property
    def acoustics(self) -> Acoustics:
        """What the decoder needs of it."""
        return Acoustics(to_columns(self.codes), self.mel, self.embedding)

    def to_tensors(self) -> dict[str, Tensor]:
        """Give everything as tensors on the CPU, for any file format that holds tensors."""
        return {
            "version": torch.tensor(VERSION),
            "codes": self.codes.cpu(),
            "mel": self.mel.cpu().contiguous(),
            "embedding": self.embedding.cpu(),
            "stretch": torch.tensor([self.stretch.start, self.stretch.end], dtype=torch.float64),
            "transcript": torch.tensor(list(self.transcript.encode(errors="replace")), dtype=torch.uint8),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Reference:
        """Take up what `to_tensors` gave.

        Raises:
            InvalidRequest: it is of another version; encode the recording again.
        """
        version = int(tensors["version"]) if "version" in tensors else None
        if version != VERSION:
            raise InvalidRequest(
                f"an encoded reference must be of version {VERSION}, found {version}; encode it again"
            )
        start, end = tensors["stretch"].tolist()
        transcript = bytes(tensors["transcript"].tolist()).decode("utf-8")
        return cls(tensors["codes"], tensors["mel"], tensors["embedding"], Stretch(start, end), transcript)
