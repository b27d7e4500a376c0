"""The reference's streaming, for comparison.

It crossfades with Hamming halves that sum to 1.08, starts each chunk's phases from zero, uses the same noise
again once its cache is full, and breaks on references over 16 s; all but the last is reproduced here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.audio_stream import LOOKAHEAD_CODES, AudioStream, ChunkDecoder
from stepaudiod.editx.decoder.config import REMEMBERED_FRAMES
from stepaudiod.editx.decoder.flow import Acoustics, Flow, align_mel
from stepaudiod.editx.decoder.reference_prefix import ReferencePrefix
from stepaudiod.editx.decoder.streaming import OVERLAP_FRAMES, FlowStream, SourceNoise, VocoderStream
from stepaudiod.editx.decoder.token_encoder import EncoderState
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.tokenizers.features import HOP
from tests.parity.whole import reference_source


class ReferenceFlowStream(FlowStream):
    """Solves the reference with the first codes that follow it."""

    def __init__(self, flow: Flow, acoustics: Acoustics, noise: Tensor) -> None:
        mel = align_mel(acoustics.mel, MEL_FRAMES_PER_FRAME * acoustics.columns.shape[0]).T
        speaker = flow.speaker(acoustics.embedding)
        super().__init__(flow, noise, ReferencePrefix(0, EncoderState(), (), acoustics.columns, mel, speaker))
        for state in self._states:
            state.newest = None

    def begin(self, ahead: Tensor) -> None:
        """Solve the reference; `ahead` is `(3, 2)`, the first columns after it."""
        if self._columns.shape[0]:
            self._flow.solve([self.encode(ahead, is_last=False)])
        for state in self._states:
            state.past = None if state.past is None else state.past.as_prompt()
            state.newest = REMEMBERED_FRAMES

    def _noise_at(self, offset: int, frames: int) -> Tensor:
        return super()._noise_at(self._states[0].frames, frames)


class ReferenceVocoderStream(VocoderStream):
    """Restarts the phases with each chunk, and fades with Hamming halves."""

    def __init__(self, vocoder: Vocoder, noise: SourceNoise) -> None:
        super().__init__(vocoder, noise)
        self._source = self._tail

    def excite(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        mel = torch.cat((self._mel, mel.to(self._mel)), dim=1)
        noise = self._new_noise(HOP * mel.shape[1]).to(self._noise)
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


class ReferenceAudioStream(AudioStream):
    _flow: ReferenceFlowStream

    def __init__(
        self, decoder: ChunkDecoder, acoustics: Acoustics, noise: Tensor, source_noise: SourceNoise
    ) -> None:
        flow = ReferenceFlowStream(decoder.flow, acoustics, noise)
        prefix = ReferencePrefix(0, EncoderState(), (), flow._columns, flow._condition, flow._speaker)
        super().__init__(decoder, prefix, noise, source_noise)
        self._flow = flow
        self._vocoder = ReferenceVocoderStream(decoder.vocoder, source_noise)
        self._is_ready = False

    def push(self, code: int) -> bool:
        if self._is_ready:
            return super().push(code)
        self._codes.append(code)
        if len(self._codes) >= LOOKAHEAD_CODES:
            self._begin()
        return False

    def finish(self, code: int | None = None) -> Tensor:
        """Decode the rest; a last code that is known to be the last completes no chunk of its own."""
        self._codes += [] if code is None else [code]
        if self._codes and not self._is_ready:
            self._begin()
        return super().finish()

    def _begin(self) -> None:
        self._flow.begin(self._columns(min(len(self._codes), LOOKAHEAD_CODES)))
        self._is_ready = True
