"""The vocoder's excitation: sines at nine multiples of a pitch, and noise where there is none. Knows no mel.

    pitch, 50 Hz ─ phase of each harmonic ─ stretched 480 times ─ sine ─┐
    noise ─────────────────────────────────────────────────────────────┴─ one linear layer, tanh ─ 24 kHz

The phase is a sum over the whole utterance. The reference sums it in float32 and loses the ninth harmonic's
place by a few per cent within a minute; here it is float64. A stream carries the sum from chunk to chunk.
"""

from __future__ import annotations

import math
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HOP = 480
"""Samples at 24 kHz a mel frame."""
SAMPLE_RATE = 24000
HARMONICS = 9
AMPLITUDE, NOISE_AMPLITUDE = 0.1, 0.003
VOICED_HZ = 10.0


class PhaseArithmetic(Enum):
    """How phases are summed."""

    EXACT = "float64"
    REFERENCE = "float32"


class HarmonicSource(nn.Module):
    """Nine harmonics and noise, mixed by one learned layer."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(HARMONICS, 1)

    def forward(
        self,
        pitch: Tensor,
        noise: Tensor,
        arithmetic: PhaseArithmetic = PhaseArithmetic.EXACT,
        turns: Tensor | None = None,
    ) -> Tensor:
        """Excite.

        Args:
            pitch: `(frames,)` Hz.
            noise: `(480 * frames, 9)` standard normal.
            arithmetic: how phases are summed.
            turns: `(9,)` float64, where the phases stood after the frame before the first; see `advance`.

        Returns:
            `(480 * frames,)`.

        Source: NSF (arXiv 1810.11946), in HiFTNet's form (arXiv 2309.09493).
        """
        exact = arithmetic is PhaseArithmetic.EXACT
        cycles = _cycles(pitch, exact)  # (9, frames) turns a sample
        summed = torch.cumsum(cycles, dim=1)
        if turns is not None:
            summed = summed + turns[:, None].to(summed) / HOP
        sines = AMPLITUDE * _stretched_sine(summed, exact, None if turns is None else turns / HOP)
        voiced = (pitch > VOICED_HZ).to(noise.dtype).repeat_interleave(HOP)[:, None]  # (480 * frames, 1)
        level = voiced * NOISE_AMPLITUDE + (1 - voiced) * AMPLITUDE / 3
        mixed = self.l_linear(sines.T.to(noise.dtype) * voiced + level * noise)
        excitation: Tensor = torch.tanh(mixed)[:, 0]
        return excitation


def advance(turns: Tensor, pitch: Tensor) -> Tensor:
    """Say where the phases stand after these frames.

    Args:
        turns: `(9,)` float64 turns before them.
        pitch: `(frames,)` Hz.

    Returns:
        `(9,)` float64, whole turns left out.
    """
    return (turns + HOP * _cycles(pitch, True).sum(dim=1)) % 1.0


def _cycles(pitch: Tensor, exact: bool) -> Tensor:
    """(9, frames): turns a sample of each harmonic, whole turns left out."""
    harmonics = torch.arange(1, HARMONICS + 1, device=pitch.device, dtype=pitch.dtype)[:, None]
    frequency = pitch * harmonics
    return (frequency.double() if exact else frequency) / SAMPLE_RATE % 1


def _stretched_sine(summed: Tensor, exact: bool, before: Tensor | None) -> Tensor:
    """Interpolate phases (9, frames) to samples, half a sample off the frames' middles, and take the sine.

    Before the first frame's middle the phase is held, unless it is known where it came from.
    """
    if not exact:
        phase = summed * 2 * math.pi * HOP
        return torch.sin(F.interpolate(phase[None], scale_factor=HOP, mode="linear")[0])
    held = F.interpolate(summed[None], scale_factor=HOP, mode="linear")[0]
    if before is not None:
        joined = torch.stack((before.to(summed), summed[:, 0]), dim=1)
        held[:, : HOP // 2] = F.interpolate(joined[None], scale_factor=HOP, mode="linear")[
            0, :, HOP // 2 * 2 : HOP // 2 * 3
        ]
    # whole turns are dropped in float64, so that the sine itself may be taken in less
    return torch.sin((held * HOP % 1.0) * (2 * math.pi))
