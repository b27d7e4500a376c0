"""A recording encoded for the model: codes, mel spectrogram and speaker embedding. Independent of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudiod.editx.decoder.flow import Acoustics
from stepaudiod.editx.interleaving import code_ids, interleave, to_columns
from stepaudiod.editx.segments import TimeRange, cut_silence
from stepaudiod.editx.tokenizers import features
from stepaudiod.editx.tokenizers.linguistic import LinguisticTokenizer
from stepaudiod.editx.tokenizers.resample import resample
from stepaudiod.editx.tokenizers.semantic import SemanticTokenizer
from stepaudiod.editx.tokenizers.speaker import SpeakerEncoder
from stepaudiod.errors import InvalidRequest

SHORTEST_SECONDS = 0.4
SILENT_PEAK = 1e-4

Recording = NDArray[np.floating[Any]] | Tensor
"""`(samples,)` or `(channels, samples)`, -1..1."""
VERSION = 1
"""Changes with the meaning of the tensors; a cache of another version is discarded."""


@dataclass(frozen=True)
class Reference:
    """An encoded recording.

    Args:
        codes: `(n,)` int64, interleaved.
        mel: `(frames, 80)` at 50 Hz.
        embedding: `(192,)`.
        time_range: the part of the recording that is encoded.
        transcript: of that part; "" if unknown.
    """

    codes: Tensor
    mel: Tensor
    embedding: Tensor
    time_range: TimeRange
    transcript: str = ""

    @property
    def ids(self) -> list[int]:
        return code_ids(self.codes)

    @cached_property
    def acoustics(self) -> Acoustics:
        return Acoustics(to_columns(self.codes), self.mel, self.embedding)

    def to_tensors(self) -> dict[str, Tensor]:
        """All fields as tensors on the CPU, for any file format of tensors."""
        return {
            "version": torch.tensor(VERSION),
            "codes": self.codes.cpu(),
            "mel": self.mel.cpu().contiguous(),
            "embedding": self.embedding.cpu(),
            "stretch": torch.tensor([self.time_range.start, self.time_range.end], dtype=torch.float64),
            "transcript": torch.tensor(list(self.transcript.encode(errors="replace")), dtype=torch.uint8),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Reference:
        """The inverse of `to_tensors`.

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
        return cls(tensors["codes"], tensors["mel"], tensors["embedding"], TimeRange(start, end), transcript)


def to_mono(waveform: Recording) -> Tensor:
    """Convert a recording to `(samples,)` float32 on the host.

    Raises:
        InvalidRequest: it is empty, or some samples are no numbers.
    """
    tensor = torch.as_tensor(waveform).to("cpu", torch.float32)
    if tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
        raise InvalidRequest("the recording holds no samples, or some that are no numbers", "waveform")
    return features.to_mono(tensor)


class Encoders(NamedTuple):
    """The networks that encode recordings; a voice that has been encoded needs none of them."""

    linguistic: LinguisticTokenizer
    semantic: SemanticTokenizer
    speaker: SpeakerEncoder

    @torch.inference_mode()
    def encode(self, waveform: Tensor, sample_rate: int, time_range: TimeRange, transcript: str) -> Reference:
        """Encode `(samples,)` on the encoders' device, of up to 30 s at any rate.

        The time range is its position in the whole recording; the transcript is its own.

        Raises:
            InvalidRequest: it is silent or too short.
        """
        if waveform.numel() == 0 or float(waveform.abs().max()) < SILENT_PEAK:
            raise InvalidRequest("the recording is silent", "waveform")
        waveform = cut_silence(features.limit_peak(waveform), sample_rate)
        seconds = waveform.shape[-1] / sample_rate
        if seconds < SHORTEST_SECONDS:
            raise InvalidRequest(
                f"the recording has {seconds:.2f} s of sound; expected {SHORTEST_SECONDS} s or more",
                "waveform",
            )
        exact = resample(waveform, sample_rate, features.CODE_RATE, torch.float64)
        trimmed = features.trim_for_codes(exact)
        # codes are near ties: rounding convolutions to TF32 on a GPU would change some
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            codes = interleave(self.linguistic(trimmed), self.semantic(trimmed))
        mel = features.prompt_mel(resample(waveform, sample_rate, features.SAMPLE_RATE))
        embedding = self.speaker.embed(resample(waveform, sample_rate, features.CODE_RATE))
        return Reference(codes, mel, embedding, time_range, transcript)
