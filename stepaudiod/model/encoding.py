"""A recording to what the model needs of it: codes, mel, embedding. Knows no prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudiod.errors import InvalidRequest
from stepaudiod.model import features
from stepaudiod.model.campplus import SpeakerEncoder
from stepaudiod.model.codes import interleave
from stepaudiod.model.linguistic import LinguisticTokenizer
from stepaudiod.model.reference import Reference
from stepaudiod.model.resample import resample
from stepaudiod.model.segments import Stretch, cut_silence
from stepaudiod.model.semantic import SemanticTokenizer

SHORTEST_SECONDS = 0.4
SILENT_PEAK = 1e-4

Waveform = NDArray[np.floating[Any]] | Tensor
"""`(samples,)` or `(channels, samples)`, -1..1."""


class Encoder:
    """Encodes recordings of up to 30 s.

    Args:
        linguistic: tokeniser.
        semantic: tokeniser.
        speaker: encoder.
        is_silence_cut: cut the silence around a voice before any stage; the reference doesn't.
    """

    def __init__(
        self,
        linguistic: LinguisticTokenizer,
        semantic: SemanticTokenizer,
        speaker: SpeakerEncoder,
        is_silence_cut: bool = True,
    ) -> None:
        self._linguistic = linguistic
        self._semantic = semantic
        self._speaker = speaker
        self._is_silence_cut = is_silence_cut
        self._device = linguistic.shift.device

    def to_mono(self, waveform: Waveform) -> Tensor:
        """Bring a recording to `(samples,)` float32 on the device.

        Raises:
            InvalidRequest: it holds nothing, or what are no numbers.
        """
        tensor = torch.as_tensor(waveform).to(self._device, torch.float32)
        if tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
            raise InvalidRequest("the recording holds no samples, or some that are no numbers", "audio")
        return features.to_mono(tensor)

    @torch.inference_mode()
    def encode(self, waveform: Tensor, sample_rate: int, stretch: Stretch, transcript: str) -> Reference:
        """Encode `(samples,)`.

        Args:
            waveform: mono, at any rate.
            sample_rate: Hz.
            stretch: which part of a recording it is.
            transcript: what it says.

        Raises:
            InvalidRequest: it is silent or too short.
        """
        if waveform.numel() == 0 or float(waveform.abs().max()) < SILENT_PEAK:
            raise InvalidRequest("the recording is silent", "audio")
        waveform = features.limit_peak(waveform)
        if self._is_silence_cut:
            waveform = cut_silence(waveform, sample_rate)
        seconds = waveform.shape[-1] / sample_rate
        if seconds < SHORTEST_SECONDS:
            raise InvalidRequest(
                f"the recording holds {seconds:.2f} s of sound; expected {SHORTEST_SECONDS} s or more",
                "audio",
            )
        exact = resample(waveform, sample_rate, features.CODE_RATE, torch.float64)
        trimmed = features.trim_for_codes(exact)
        # codes are near ties: rounding convolutions to TF32 on a GPU would move some
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            codes = interleave(self._linguistic(trimmed), self._semantic(trimmed))
        mel = features.prompt_mel(resample(waveform, sample_rate, features.MEL_RATE))
        embedding = self._speaker.embed(resample(waveform, sample_rate, features.CODE_RATE))
        return Reference(codes, mel, embedding, stretch, transcript)
