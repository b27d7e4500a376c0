"""The reference's streaming, for comparison.

It crossfades with Hamming halves that sum to 1.08, starts each chunk's phases from zero, uses the same noise
again once its cache is full, and breaks on references over 16 s; all but the last is reproduced here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stepaudiod.editx.codes import GROUP, GROUP_FRAMES, MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.config import LOOKAHEAD_CODES, REMEMBERED_FRAMES
from stepaudiod.editx.decoder.flow import Acoustics, Flow, align_mel
from stepaudiod.editx.decoder.reference_prefix import EagerPrefix
from stepaudiod.editx.decoder.streaming import OVERLAP_FRAMES, FlowStream, Noise, VocoderStream
from stepaudiod.editx.decoder.token_encoder import EncoderState
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.tokenizers.features import HOP
from tests.parity.whole import reference_source

CHUNK_FRAMES = (15, 24, 48)
"""Frames at 25 Hz of the first, the second and each later chunk."""


class ReferenceFlowStream(FlowStream):
    """Solves the reference with the first codes that follow it."""

    def __init__(self, flow: Flow, acoustics: Acoustics, noise: Tensor) -> None:
        mel = align_mel(acoustics.mel, MEL_FRAMES_PER_FRAME * acoustics.columns.shape[0]).T
        speaker = flow.speaker(acoustics.embedding)
        prefix = EagerPrefix(0, EncoderState(), (), acoustics.columns, mel, speaker)
        super().__init__(flow, prefix, lambda first, frames: noise[:, first : first + frames])
        for state in self._states:
            state.newest = None

    def begin(self, ahead: Tensor) -> None:
        """Solve the reference; `ahead` is `(3, 2)`, the first columns after it."""
        if self._columns.shape[0]:
            self._flow.solve(self.encode(ahead, is_last=False))
        for state in self._states:
            state.past = None if state.past is None else state.past.as_prompt()
            state.newest = REMEMBERED_FRAMES

    def _noise_at(self, first: int, frames: int) -> Tensor:
        return super()._noise_at(self._states[0].frames, frames)


class ReferenceVocoderStream(VocoderStream):
    """Restarts the phases with each chunk, and fades with Hamming halves."""

    def __init__(self, vocoder: Vocoder, noise: Noise) -> None:
        super().__init__(vocoder, noise)
        self._source = self._tail

    def excite(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        mel = torch.cat((self._mel, mel.to(self._mel)), dim=1)
        noise = self._noise(0, HOP * mel.shape[1]).to(self._mel)
        source = reference_source(self._vocoder.m_source, self._vocoder.f0_predictor(mel), noise)
        source = torch.cat((self._source, source[self._source.shape[0] :]))
        self._mel = mel[:, -OVERLAP_FRAMES:]
        self._source = source[-OVERLAP_FRAMES * HOP :]
        return mel, source

    def _joined(self, waveform: Tensor) -> Tensor:
        n = self._tail.shape[0]
        window = torch.hamming_window(2 * OVERLAP_FRAMES * HOP, periodic=False, dtype=torch.float64)
        rising, falling = window[:n].to(waveform), window[window.shape[0] - n :].to(waveform)
        return torch.cat((waveform[:n] * rising + self._tail * falling, waveform[n:]))


class ReferenceAudioStream:
    """Sound from codes, one at a time; the noise is `(80, n)`, and `source_noise` gives each chunk's."""

    def __init__(
        self,
        flow: Flow,
        vocoder: Vocoder,
        acoustics: Acoustics,
        noise: Tensor,
        source_noise: Callable[[], Tensor],
    ) -> None:
        self._flow = ReferenceFlowStream(flow, acoustics, noise)
        self._vocoder = ReferenceVocoderStream(vocoder, lambda first, samples: source_noise())
        self._codes: list[int] = []
        self._sizes = list(CHUNK_FRAMES)
        self._is_ready = False

    def push(self, code: int) -> Tensor | None:
        """Returns the `(samples,)` of the chunk that the code completes."""
        self._codes.append(code)
        if not self._is_ready:
            if len(self._codes) >= LOOKAHEAD_CODES:
                self._begin()
            return None
        wanted = self._sizes[0] // GROUP_FRAMES * GROUP
        if len(self._codes) < wanted + LOOKAHEAD_CODES:
            return None
        mel = self._flow.decode(self._columns(wanted + LOOKAHEAD_CODES), is_last=False)
        del self._codes[:wanted]
        if len(self._sizes) > 1:
            self._sizes.pop(0)
        return self._vocoder.decode(mel, is_last=False)

    def finish(self, code: int) -> Tensor:
        """Decode the rest; the last code, known to be the last, completes no chunk of its own."""
        self._codes.append(code)
        if not self._is_ready:
            self._begin()
        mel = self._flow.decode(self._columns(len(self._codes)), is_last=True)
        return self._vocoder.decode(mel, is_last=True)

    def _begin(self) -> None:
        self._flow.begin(self._columns(min(len(self._codes), LOOKAHEAD_CODES)))
        self._is_ready = True

    def _columns(self, codes: int) -> Tensor:
        return to_columns(torch.tensor(self._codes[:codes], dtype=torch.int64))
