"""The vocoder's excitation: sines at nine multiples of a pitch, or noise without one. Independent of mels.

    pitch, 50 Hz ─ phase of each harmonic ─ upsampled 480 times ─ sine ─┐
    noise ─────────────────────────────────────────────────────────────┴─ one linear layer, tanh ─ 24 kHz

The phase is a sum over the whole utterance, in float64: in float32, as the reference computes it, the ninth
harmonic is off by a few per cent within a minute. A stream carries the sum from chunk to chunk.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.tokenizers.features import HOP, SAMPLE_RATE

HARMONICS = 9
AMPLITUDE, NOISE_AMPLITUDE = 0.1, 0.003
VOICED_HZ = 10.0


class HarmonicSource(nn.Module):
    """Nine harmonics and noise, mixed by one learned layer."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(HARMONICS, 1)

    def forward(self, pitch: Tensor, noise: Tensor, turns: Tensor | None = None) -> Tensor:
        """Excite.

        Args:
            pitch: `(frames,)` Hz.
            noise: `(480 * frames, 9)` standard normal.
            turns: `(9,)` float64, the phases after the frame before the first; see `advance`.

        Returns:
            `(480 * frames,)`.

        Source: NSF (arXiv 1810.11946), in HiFTNet's form (arXiv 2309.09493).
        """
        summed = torch.cumsum(_cycles(pitch), dim=1)
        if turns is not None:
            summed = summed + turns[:, None].to(summed) / HOP
        return self.mix(_interpolated_sine(summed, None if turns is None else turns / HOP), pitch, noise)

    def mix(self, sines: Tensor, pitch: Tensor, noise: Tensor) -> Tensor:
        """Mix harmonics `(9, 480 * frames)` with noise; the arguments are those of `forward`."""
        voiced = (pitch > VOICED_HZ).to(noise.dtype).repeat_interleave(HOP)[:, None]  # (480 * frames, 1)
        level = voiced * NOISE_AMPLITUDE + (1 - voiced) * AMPLITUDE / 3
        mixed = self.l_linear((AMPLITUDE * sines).T.to(noise.dtype) * voiced + level * noise)
        excitation: Tensor = torch.tanh(mixed)[:, 0]
        return excitation


def advance(turns: Tensor, pitch: Tensor) -> Tensor:
    """Advance the phases by some frames of pitch in Hz.

    They are `(9,)` float64 turns, with whole turns dropped.
    """
    return (turns + HOP * _cycles(pitch).sum(dim=1)) % 1.0


def _cycles(pitch: Tensor) -> Tensor:
    """(9, frames) float64: turns per sample of each harmonic, whole turns dropped."""
    harmonics = torch.arange(1, HARMONICS + 1, device=pitch.device, dtype=pitch.dtype)[:, None]
    return (pitch * harmonics).double() / SAMPLE_RATE % 1


def _interpolated_sine(summed: Tensor, before: Tensor | None) -> Tensor:
    """Interpolate phases (9, frames) to samples, half a sample off the frames' middles, and take the sine.

    Before the first frame's middle the phase is constant, unless the phase of the frame before is known.
    """
    phase = F.interpolate(summed[None], scale_factor=HOP, mode="linear")[0]
    if before is not None:
        joined = torch.stack((before.to(summed), summed[:, 0]), dim=1)
        phase[:, : HOP // 2] = F.interpolate(joined[None], scale_factor=HOP, mode="linear")[
            0, :, HOP // 2 * 2 : HOP // 2 * 3
        ]
    # whole turns are dropped in float64, so that the sine may be computed in less
    return torch.sin((phase * HOP % 1.0) * (2 * math.pi))
