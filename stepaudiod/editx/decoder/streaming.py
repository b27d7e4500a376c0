"""Sound from codes as they arrive: the flow decoder and the vocoder in chunks.

    codes     5-code groups    ────[first chunk]──[second]──[all later ones]──[rest]
    decoder   needs 3 frames (one group) beyond the chunk; keeps keys, values and columns of its own beside
              those of the reference, which all streams of a voice share: see `reference_prefix`
    vocoder   holds back the sound of its last 8 frames, whose right neighbours are unknown, and repeats them:

    chunk k    ·· context ··│────────────── new ──────────────│
                                                     └ 8 kept ┘
    chunk k+1                          ·· context ··│─8 again─│──── new ────
                                                    └┴ crossfade over the first 2, with halves that sum to 1

Independent of requests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.config import LOOKAHEAD, REMEMBERED_FRAMES
from stepaudiod.editx.decoder.dit import MELS
from stepaudiod.editx.decoder.flow import Flow, FlowPart
from stepaudiod.editx.decoder.reference_prefix import EagerPrefix, encode_part
from stepaudiod.editx.decoder.source import HARMONICS, advance
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.tokenizers.features import HOP

OVERLAP_FRAMES = 8
FADE_FRAMES = 2
"""The part of the overlap in which both chunks know their neighbours, and are crossfaded."""
CONTEXT_FRAMES = 16
"""Mel frames to the left of an overlap that the vocoder reads again."""

Noise = Callable[[int, int], Tensor]
"""Normal noise from a position on: `(80, frames)` of mel frames, `(samples, 9)` of samples."""


class FlowStream:
    """Mel from codes, chunk by chunk; noise is read at each frame's position, the reference's included."""

    def __init__(self, flow: Flow, prefix: EagerPrefix, noise: Noise) -> None:
        self._flow = flow
        self._noise = noise
        self._encoder_state, self._states = prefix.new_states(REMEMBERED_FRAMES)
        self._speaker, self._position = prefix.speaker, prefix.frames
        self._columns, self._condition = prefix.columns, prefix.condition

    def fork(self) -> FlowStream:
        """A stream in the same state, which goes on by itself."""
        forked = copy.copy(self)
        forked._encoder_state = self._encoder_state.fork()
        forked._states = [copy.copy(state) for state in self._states]
        return forked

    def decode(self, columns: Tensor, is_last: bool) -> Tensor:
        """Decode the next columns to `(80, 2n)`.

        They are `(n + 3, 2)`, the last three of which are repeated by the next call; `(n, 2)` if last.
        """
        waiting = self._condition.shape[1]
        return self._flow.solve(self.encode(columns, is_last))[:, waiting:]

    def encode(self, columns: Tensor, is_last: bool) -> FlowPart:
        """Encode the reference's last frames, if they are still to come, and the next columns.

        The result must be solved before the next call.
        """
        columns = torch.cat((self._columns.to(columns), columns))
        frames = MEL_FRAMES_PER_FRAME * (columns.shape[0] - (0 if is_last else LOOKAHEAD))
        part = encode_part(
            self._flow,
            columns,
            is_last,
            self._encoder_state,
            self._states,
            self._condition,
            self._speaker,
            self._noise_at(self._position, frames),
        )
        self._columns, self._condition = self._columns[:0], self._condition[:, :0]
        self._position += frames
        return part

    def _noise_at(self, first: int, frames: int) -> Tensor:
        return self._noise(first, frames)


class VocoderStream:
    """Sound from mel, chunk by chunk."""

    def __init__(self, vocoder: Vocoder, noise: Noise) -> None:
        self._vocoder = vocoder
        self._noise = noise
        device = vocoder.conv_pre.weight.device
        self._mel = torch.zeros(MELS, 0, device=device)
        self._first = 0  # position of its first frame
        self._pitch = torch.zeros(0, device=device)
        self._turns: Tensor | None = None
        self._tail = torch.zeros(0, device=device)
        self._known = 0

    def fork(self) -> VocoderStream:
        """A stream in the same state, which goes on by itself."""
        return copy.copy(self)  # its tensors are replaced, never written to

    def decode(self, mel: Tensor, is_last: bool) -> Tensor:
        """Vocode the next `(80, n)` mel; the sound of the last 8 frames is held back unless `is_last`."""
        mel, source = self.excite(mel)
        return self.join(self._vocoder.decode(mel[None], source[None])[0], is_last)

    def excite(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Prepend the repeated frames to the next `(80, n)` mel, and make its source.

        Returns:
            `(80, frames)` and `(480 * frames,)`, for the vocoder; its output goes to `join`.
        """
        mel = torch.cat((self._mel, mel.to(self._mel)), dim=1)
        seen, total = self._mel.shape[1], mel.shape[1]
        noise = self._noise(HOP * self._first, HOP * total).to(self._mel)
        pitch = self._vocoder.f0_predictor(mel)
        # frames left of the overlap had both neighbours in the last chunk, and lack the left ones now
        known = self._known = max(0, seen - OVERLAP_FRAMES)
        pitch = torch.cat((self._pitch[:known], pitch[known:]))
        source: Tensor = self._vocoder.m_source(pitch, noise, self._turns)
        dropped = max(0, total - CONTEXT_FRAMES - OVERLAP_FRAMES)
        if dropped:
            turns = torch.zeros(HARMONICS, dtype=torch.float64, device=pitch.device)
            self._turns = advance(turns if self._turns is None else self._turns, pitch[:dropped])
        self._mel, self._pitch, self._first = mel[:, dropped:], pitch[dropped:], self._first + dropped
        return mel, source

    def finish(self) -> Tensor:
        """Return the sound that was held back, when no mel follows."""
        tail, self._tail = self._tail, self._tail[:0]
        return tail

    def join(self, waveform: Tensor, is_last: bool) -> Tensor:
        """Join a chunk's `(480 * frames,)` to the one before it; returns the new samples."""
        waveform = self._joined(waveform[HOP * self._known :])
        kept = 0 if is_last else min(OVERLAP_FRAMES * HOP, waveform.shape[0])
        self._tail = waveform[waveform.shape[0] - kept :]
        return waveform[: waveform.shape[0] - kept]

    def _joined(self, waveform: Tensor) -> Tensor:
        """Crossfade from the tail of the chunk before."""
        joined = crossfade(self._tail.cpu().numpy(), waveform.cpu().numpy())
        return torch.from_numpy(joined).to(waveform)


def crossfade(tail: Waveform, sound: Waveform) -> Waveform:
    """Fade from the beginning of a tail to a sound that begins at the same time."""
    n = min(len(tail), FADE_FRAMES * HOP)
    rising, falling = (fade.numpy() for fade in sine_fade(n))
    return np.concatenate((sound[:n] * rising + tail[:n] * falling, sound[n:]))


def sine_fade(samples: int) -> tuple[Tensor, Tensor]:
    """Rising and falling halves that sum to one everywhere."""
    rising = torch.sin((torch.arange(samples) + 0.5) * (torch.pi / 2 / max(samples, 1))).square()
    return rising, 1.0 - rising
