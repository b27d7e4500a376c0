"""Spectra on the mel scale, as Whisper hears them. Knows no engine."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

RATE = 16_000
HOP = 160
N_FFT = 400

FLOOR = 1e-10
"""Power below which everything counts as the same silence."""


def mel_filters(bins: int, n_fft: int = N_FFT) -> Array:
    """Slaney's triangular filters, area-normalised: `(bins, n_fft // 2 + 1)`."""
    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, bins + 2, dtype=np.float32)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    frequencies = np.fft.rfftfreq(n_fft, 1 / RATE)  # of an odd n_fft, the last is below RATE / 2
    slopes = edges[:, None] - frequencies[None]  # (bins + 2, n_fft // 2 + 1)
    widths = np.diff(edges)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    shaped: Array = filters.astype(np.float32)
    return shaped


def mel_power(
    waveform: Array, filters: Array, n_fft: int = N_FFT, pad: Literal["reflect", "constant"] = "reflect"
) -> Array:
    """Power at 100 frames a second.

    Args:
        waveform: 16 kHz, `(samples,)`.
        filters: from `mel_filters`, `(bins, n_fft // 2 + 1)`.
        n_fft: samples of a frame.
        pad: what lies before and behind the samples.

    Returns:
        `(bins, 1 + samples // 160)`.
    """
    padded = np.pad(waveform, n_fft // 2, mode=pad)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::HOP]  # (frames, n_fft)
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2  # (frames, n_fft // 2 + 1)
    mel: Array = (filters @ power.T).astype(np.float32)
    return mel


def log_mel(waveform: Array, filters: Array, seconds: int = 30) -> Array:
    """Whisper's input: `(bins, 100 * seconds)`.

    Args:
        waveform: 16 kHz, at most `seconds` of it; zeros follow.
        filters: from `mel_filters`.
        seconds: what the model hears at once.
    """
    padded = np.zeros(seconds * RATE, np.float32)
    padded[: len(waveform)] = waveform
    mel = np.log10(np.maximum(mel_power(padded, filters)[:, :-1], FLOOR))
    return np.ascontiguousarray((np.maximum(mel, mel.max() - 8) + 4) / 4, np.float32)
