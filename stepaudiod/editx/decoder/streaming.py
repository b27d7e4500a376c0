"""Sound while codes still come: the flow decoder and the vocoder in chunks.

    codes     5-code groups    ────[first chunk]──[second]──[all later ones]──[rest]
    decoder   needs 3 frames (one group) more than a chunk gives out; keeps keys, values and columns of
              its own beside those of the reference, which all streams of a voice share: see `flow_prompt`
    vocoder   keeps its last 8 frames' sound back, as they lack what follows, and makes them again:

        chunk k    ·· context ··│────────────── new ──────────────│
                                                         └ 8 kept ┘
        chunk k+1                          ·· context ··│─8 again─│──── new ────
                                                        └┴ the first 2 fade over, with halves that sum to one

The reference's own streaming fades with Hamming halves that sum to 1.08, starts each chunk's phases from
zero, takes the same noise again once its cache is full, and breaks on references over 16 s.
`StreamStyle.REFERENCE` does the first three, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor

from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.dit import MELS
from stepaudiod.editx.decoder.flow import Acoustics, Flow, FlowPart, align_mel
from stepaudiod.editx.decoder.reference_prefix import ReferencePrefix, encode_part, prefill
from stepaudiod.editx.decoder.source import HARMONICS, HOP, PhaseArithmetic, advance
from stepaudiod.editx.decoder.token_encoder import LOOKAHEAD
from stepaudiod.editx.decoder.vocoder import Vocoder

REMEMBERED_FRAMES = 96
"""Mel frames of its own output that the estimator attends to, beside the reference's."""
OVERLAP_FRAMES = 8
FADE_FRAMES = 2
"""Of the overlap, the part where both chunks know their neighbours: here the seamless style fades over."""
CONTEXT_FRAMES = 16
"""Mel frames the vocoder sees again to the left of an overlap."""

SourceNoise = Callable[[int], Tensor]
"""Gives the next `(samples, 9)` of normal noise."""


class StreamStyle(Enum):
    """Whose streaming."""

    SEAMLESS = "seamless"
    REFERENCE = "reference"


class FlowStream:
    """Mel from codes, chunk by chunk.

    Args:
        flow: the decoder.
        acoustics: of the reference.
        noise: `(80, n)`; in the seamless style, read at each frame's place in the utterance.
        style: whose streaming.
        prompt: the reference as the decoder took it in, where that has been done before; the seamless style
            does it now without.
    """

    def __init__(
        self,
        flow: Flow,
        acoustics: Acoustics,
        noise: Tensor,
        style: StreamStyle,
        prompt: ReferencePrefix | None = None,
    ) -> None:
        self._flow = flow
        self._noise = noise
        self._is_reference = style is StreamStyle.REFERENCE
        if self._is_reference:
            self._encoder_state, self._states = flow.new_states()
            self._speaker, self._position = flow.speaker(acoustics.embedding), 0
            self._columns = acoustics.columns
            self._condition = align_mel(acoustics.mel, MEL_FRAMES_PER_FRAME * self._columns.shape[0]).T
        else:
            prompt = prompt or prefill(flow, acoustics)
            self._encoder_state, self._states = prompt.new_states(REMEMBERED_FRAMES)
            self._speaker, self._position = prompt.speaker, prompt.frames
            self._columns, self._condition = prompt.columns, prompt.condition
        self.is_ready = not self._is_reference

    def begin(self, ahead: Tensor) -> None:
        """Take in the reference as the reference's streaming does, with what follows it.

        Args:
            ahead: `(3, 2)`, the first columns of that.
        """
        if self._columns.shape[0]:
            self._flow.solve([self.encode(ahead, is_last=False)])
        for state in self._states:
            state.past = None if state.past is None else state.past.as_prompt()
            state.newest = REMEMBERED_FRAMES
        self.is_ready = True

    def decode(self, columns: Tensor, is_last: bool) -> Tensor:
        """Decode the next columns.

        Args:
            columns: `(n + 3, 2)`, the last three of which come again; `(n, 2)` if last.
            is_last: nothing follows.

        Returns:
            `(80, 2n)`.
        """
        waiting = self._condition.shape[1]
        return self._flow.solve([self.encode(columns, is_last)])[0][:, waiting:]

    def encode(self, columns: Tensor, is_last: bool) -> FlowPart:
        """Encode what waits of the reference, and the next columns, for a solve that must come next."""
        columns = torch.cat((self._columns.to(columns), columns))
        frames = MEL_FRAMES_PER_FRAME * (columns.shape[0] - (0 if is_last else LOOKAHEAD))
        offset = self._states[0].frames if self._is_reference else self._position
        part = encode_part(
            self._flow,
            columns,
            is_last,
            self._encoder_state,
            self._states,
            self._condition,
            self._speaker,
            self._noise_at(offset, frames),
        )
        self._columns, self._condition = self._columns[:0], self._condition[:, :0]
        self._position += frames
        return part

    def _noise_at(self, offset: int, frames: int) -> Tensor:
        """(80, frames) from a place in the noise, which begins again at its end."""
        index = torch.arange(offset, offset + frames, device=self._noise.device) % self._noise.shape[1]
        return self._noise[:, index]


class VocoderStream:
    """Sound from mel, chunk by chunk.

    Args:
        vocoder: the vocoder.
        noise: gives the source's noise.
        style: whose streaming.
    """

    def __init__(self, vocoder: Vocoder, noise: SourceNoise, style: StreamStyle) -> None:
        self._vocoder = vocoder
        self._new_noise = noise
        self._is_reference = style is StreamStyle.REFERENCE
        device = vocoder.conv_pre.weight.device
        self._mel = torch.zeros(MELS, 0, device=device)
        self._pitch = torch.zeros(0, device=device)
        self._noise = torch.zeros(0, HARMONICS, device=device)
        self._turns: Tensor | None = None
        self._source = torch.zeros(0, device=device)
        self._tail = torch.zeros(0, device=device)
        self._known = 0

    def decode(self, mel: Tensor, is_last: bool) -> Tensor:
        """Vocode the next `(80, n)` mel; the last 8 frames' sound is kept back unless `is_last`."""
        mel, source = self.excite(mel)
        return self.join(self._vocoder.decode(mel[None], source[None])[0], is_last)

    @property
    def seen(self) -> int:
        """How many mel frames of the past come with the next chunk."""
        return self._mel.shape[1]

    def excite(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Put what was seen before in front of the next `(80, n)` mel, and make its source.

        Returns:
            `(80, frames)` and `(480 * frames,)`, for the vocoder; `join` must get what it makes of them.
        """
        mel = torch.cat((self._mel, mel.to(self._mel)), dim=1)
        return mel, self._reference_source(mel) if self._is_reference else self._seamless_source(mel)

    def join(self, waveform: Tensor, is_last: bool) -> Tensor:
        """Join a chunk's `(480 * frames,)` to the one before it; gives what is new."""
        waveform = self._joined(waveform[HOP * self._known :])
        kept = 0 if is_last else min(OVERLAP_FRAMES * HOP, waveform.shape[0])
        self._tail = waveform[waveform.shape[0] - kept :]
        return waveform[: waveform.shape[0] - kept]

    def _seamless_source(self, mel: Tensor) -> Tensor:
        seen, total = self._mel.shape[1], mel.shape[1]
        noise = torch.cat((self._noise, self._new_noise(HOP * (total - seen)).to(self._noise)))
        pitch = self._vocoder.f0_predictor(mel)
        # frames left of the overlap were heard with both neighbours then, and lack the left ones now
        known = self._known = max(0, seen - OVERLAP_FRAMES)
        pitch = torch.cat((self._pitch[:known], pitch[known:]))
        source: Tensor = self._vocoder.m_source(pitch, noise, PhaseArithmetic.EXACT, self._turns)
        dropped = max(0, total - CONTEXT_FRAMES - OVERLAP_FRAMES)
        if dropped:
            turns = torch.zeros(HARMONICS, dtype=torch.float64, device=pitch.device)
            self._turns = advance(turns if self._turns is None else self._turns, pitch[:dropped])
        self._mel, self._pitch, self._noise = mel[:, dropped:], pitch[dropped:], noise[HOP * dropped :]
        return source

    def _reference_source(self, mel: Tensor) -> Tensor:
        noise = self._new_noise(HOP * mel.shape[1]).to(self._noise)
        source = self._vocoder.m_source(self._vocoder.f0_predictor(mel), noise, PhaseArithmetic.REFERENCE)
        source = torch.cat((self._source, source[self._source.shape[0] :]))
        self._mel = mel[:, -OVERLAP_FRAMES:]
        self._source = source[-OVERLAP_FRAMES * HOP :]
        return source

    def _joined(self, waveform: Tensor) -> Tensor:
        """Fade over from the tail of the chunk before."""
        if not self._is_reference:
            self._tail = self._tail[: FADE_FRAMES * HOP]
        n = self._tail.shape[0]
        rising, falling = (
            fade.to(waveform) for fade in (self._hamming(n) if self._is_reference else sine_fade(n))
        )
        return torch.cat((waveform[:n] * rising + self._tail * falling, waveform[n:]))

    @staticmethod
    def _hamming(samples: int) -> tuple[Tensor, Tensor]:
        window = torch.hamming_window(2 * OVERLAP_FRAMES * HOP, periodic=False, dtype=torch.float64)
        return window[:samples], window[window.shape[0] - samples :]


def sine_fade(samples: int) -> tuple[Tensor, Tensor]:
    """Rising and falling halves that sum to one everywhere."""
    rising = torch.sin((torch.arange(samples) + 0.5) * (torch.pi / 2 / max(samples, 1))).square()
    return rising, 1.0 - rising
