"""Resampling, streaming or at once, by FFmpeg. PyAV is imported at the first use."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepaudiod.audio.types import Waveform

FRAME_SAMPLES = 1 << 20
"""The most per frame: `decode.MAX_ALLOCATION_BYTES` limits FFmpeg's allocations."""


class Resampler:
    """Streaming resampler; rates in Hz."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        import av

        self._source_rate = source_rate
        self._frame: Any = av.AudioFrame
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=target_rate)

    def __call__(self, waveform: Waveform | None) -> Waveform:
        """Process samples, and return those that are ready; None flushes."""
        if waveform is None:
            return self._push(None)
        slices = [waveform[i : i + FRAME_SAMPLES] for i in range(0, len(waveform), FRAME_SAMPLES)]
        parts = [self._push(each) for each in slices]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _push(self, waveform: Waveform | None) -> Waveform:
        frame = None
        if waveform is not None:
            samples = np.ascontiguousarray(waveform, np.float32).reshape(1, -1)  # (1, samples)
            frame = self._frame.from_ndarray(samples, format="flt", layout="mono")
            frame.sample_rate = self._source_rate
        parts = [out.to_ndarray().reshape(-1) for out in self._resampler.resample(frame)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def resample(waveform: Waveform, source_rate: int, target_rate: int) -> Waveform:
    """Resample to `(samples * target_rate / source_rate,)`."""
    if source_rate == target_rate:
        return waveform
    resampler = Resampler(source_rate, target_rate)
    return np.concatenate([resampler(waveform), resampler(None)])
