"""Change of sample rate, streaming or at once, by FFmpeg. PyAV is imported when it is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]

FRAME_SAMPLES = 1 << 20
"""FFmpeg gets no more at once: `decode.MAX_ALLOCATION_BYTES` bounds what it may ask for."""


class Resampler:
    """Streaming change of rate.

    Args:
        source_rate: Hz of what comes.
        target_rate: Hz of what is wanted.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        import av

        self._source_rate = source_rate
        self._frame: Any = av.AudioFrame
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=target_rate)

    def __call__(self, waveform: Waveform | None) -> Waveform:
        """Take samples, return those that are ready; with None, the ones still held."""
        if waveform is None:
            return self._push(None)
        slices = [waveform[i : i + FRAME_SAMPLES] for i in range(0, len(waveform), FRAME_SAMPLES)]
        parts = [self._push(each) for each in slices]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _push(self, waveform: Waveform | None) -> Waveform:
        """One frame, or the end."""
        frame = None
        if waveform is not None:
            samples = np.ascontiguousarray(waveform, np.float32).reshape(1, -1)  # (1, samples)
            frame = self._frame.from_ndarray(samples, format="flt", layout="mono")
            frame.sample_rate = self._source_rate
        parts = [out.to_ndarray().reshape(-1) for out in self._resampler.resample(frame)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def resample(waveform: Waveform, source_rate: int, target_rate: int) -> Waveform:
    """The same sound at another rate, `(samples * target_rate / source_rate,)`."""
    if source_rate == target_rate:
        return waveform
    resampler = Resampler(source_rate, target_rate)
    return np.concatenate([resampler(waveform), resampler(None)])
