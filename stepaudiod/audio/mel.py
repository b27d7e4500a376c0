"""Spectra on the mel scale. Independent of the engines."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stepaudiod.audio.types import SPEECH_RATE, Waveform

Array = NDArray[np.float32]

HOP = 160
N_FFT = 400
TOP_HZ = 8000

FLOOR = 1e-10
"""Power of silence."""


def mel_filters(
    bins: int,
    n_fft: int = N_FFT,
    sample_rate: int = SPEECH_RATE,
    *,
    dtype: type[np.floating[Any]] = np.float32,
) -> Array:
    """Slaney's mel triangles up to 8 kHz, each of unit area: `(bins, n_fft // 2 + 1)` float32.

    The triangles' borders are computed in `dtype`.

    Source: librosa's `filters.mel` (`htk=False`, `norm="slaney"`).
    """
    top = 15 + 27 * np.log(TOP_HZ / 1000) / np.log(6.4)
    mels = np.linspace(0, top, bins + 2, dtype=dtype)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    frequencies = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    slopes = edges[:, None] - frequencies[None]  # (bins + 2, n_fft // 2 + 1)
    widths = np.diff(edges)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    shaped: Array = filters.astype(np.float32)
    return shaped


def mel_power(
    waveform: Waveform, filters: Array, n_fft: int = N_FFT, pad: Literal["reflect", "constant"] = "reflect"
) -> Array:
    """Power of 16 kHz samples at 100 frames per second: `(bins, 1 + samples // 160)`."""
    padded = np.pad(waveform, n_fft // 2, mode=pad)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::HOP]  # (frames, n_fft)
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2  # (frames, n_fft // 2 + 1)
    mel: Array = (filters @ power.T).astype(np.float32)
    return mel


def log_mel(waveform: Waveform, filters: Array) -> Array:
    """Whisper's input, `(bins, 3000)`, from at most 30 s at 16 kHz; zeros follow."""
    padded = np.zeros(30 * SPEECH_RATE, np.float32)
    padded[: len(waveform)] = waveform
    mel = np.log10(np.maximum(mel_power(padded, filters)[:, :-1], FLOOR))
    return np.ascontiguousarray((np.maximum(mel, mel.max() - 8) + 4) / 4, np.float32)
