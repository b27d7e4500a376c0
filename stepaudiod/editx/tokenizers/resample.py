"""Windowed-sinc resampling, the kind the codes were trained on. Independent of models and files.

Another filter changes the codes audibly, so this reproduces torchaudio's kernel exactly: a
Hann-windowed sinc, six zero crossings to a side, rolled off at 0.99 of the lower Nyquist frequency.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.errors import InvalidRequest

LOWPASS_WIDTH = 6
ROLLOFF = 0.99
LARGEST_BANK = 4_000_000
"""Taps; two rates without a common divisor would need hundreds of millions, nearly all of them zero."""
BLOCK = 1 << 16


@lru_cache(maxsize=32)
def sinc_kernel(orig: int, new: int, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Build the bank of `new` phase filters for a rate ratio in lowest terms.

    Codes were made with taps that were computed in float64, the prompt mel with float32 ones; the difference
    is under 1e-7.

    Returns:
        `(new, 1, 2 * width + orig)` float32 taps, and the width in source samples.

    Source: `torchaudio.functional.resample` with `sinc_interp_hann`.
    """
    base = min(orig, new) * ROLLOFF
    width = math.ceil(LOWPASS_WIDTH * orig / base)
    taps = torch.arange(-width, width + orig, dtype=dtype)[None, None] / orig
    # torchaudio takes the phases in float32 whatever the taps are in
    phases = torch.arange(0, -new, -1)[:, None, None] / new
    t = phases + taps  # (new, 1, 2 * width + orig)
    t = (t * base).clamp_(-LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = torch.cos(t * math.pi / LOWPASS_WIDTH / 2) ** 2
    t = t * math.pi
    sinc = torch.where(t == 0, torch.ones((), dtype=dtype), t.sin() / t)
    return (sinc * (window * (base / orig))).to(torch.float32), width


def resample(
    waveform: Tensor, orig_rate: int, new_rate: int, kernel_dtype: torch.dtype = torch.float32
) -> Tensor:
    """Change the sample rate of `(..., samples)` float32, up or down, between any two whole rates.

    For the precision of the taps see `sinc_kernel`.

    Returns:
        `(..., ceil(samples * new_rate / orig_rate))` float32, on the waveform's device.
    """
    if orig_rate <= 0 or new_rate <= 0:
        raise InvalidRequest(
            f"a sample rate must be positive, found {min(orig_rate, new_rate)} Hz", "sample_rate"
        )
    if orig_rate == new_rate:
        return waveform
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    if orig * new > LARGEST_BANK:
        return _resample_directly(waveform, orig, new)
    kernel, width = sinc_kernel(orig, new, kernel_dtype)
    shape = waveform.shape
    samples = shape[-1]
    flat = F.pad(waveform.reshape(-1, samples), (width, width + orig))
    # one output column per step of `orig` samples, `new` phases each: (n, 1, samples) -> (n, new, steps)
    phases = F.conv1d(flat[:, None], kernel.to(waveform.device), stride=orig)
    interleaved = phases.transpose(1, 2).reshape(flat.shape[0], -1)  # (n, steps * new)
    length = -(-new * samples // orig)
    return interleaved[..., :length].reshape(*shape[:-1], length)


def _resample_directly(waveform: Tensor, orig: int, new: int) -> Tensor:
    """Compute the taps of each output sample; for rates whose filter bank would be huge."""
    base = min(orig, new) * ROLLOFF
    width = math.ceil(LOWPASS_WIDTH * orig / base)
    samples = waveform.shape[-1]
    padded = F.pad(waveform, (width, width + 2))
    parts = []
    for first in range(0, -(-new * samples // orig), BLOCK):
        n = torch.arange(first, min(first + BLOCK, -(-new * samples // orig)), device=waveform.device)
        start = n * orig // new  # the source sample at or before each output sample
        offsets = torch.arange(-width, width + 2, device=waveform.device)
        # distance of each tap from the output sample, in whole numbers until the last division
        distance = (offsets * new - (n * orig % new)[:, None]).double() / new
        t = (distance * (base / orig)).clamp_(-LOWPASS_WIDTH, LOWPASS_WIDTH)
        taps = torch.sinc(t) * torch.cos(t * (math.pi / LOWPASS_WIDTH / 2)) ** 2 * (base / orig)
        samples_at = padded[..., start[:, None] + offsets + width]  # (..., block, taps)
        parts.append((samples_at * taps.to(waveform.dtype)).sum(-1))
    return torch.cat(parts, dim=-1)
