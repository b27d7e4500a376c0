"""Speech made faster or slower at the same pitch (WSOLA), for speeds that a voice itself can't reach.

source   ──[ frame ]────[ frame ]────[ frame ]──     frames taken every hop × factor samples, each moved by
output   ──[ frame ]──[ frame ]──[ frame ]──         up to ±seek to where it continues the last one best
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]

FRAME_S = 0.03
SEEK_S = 0.01


def change_tempo(waveform: Waveform, factor: float, sample_rate: int) -> Waveform:
    """Speech `factor` times as fast.

    Args:
        waveform: `(samples,)`.
        factor: over 1 is faster.
        sample_rate: Hz.

    Returns:
        `(round(samples / factor),)`.

    Source: Verhelst and Roelands, "An overlap-add technique based on waveform similarity", 1993.
    """
    wanted = round(len(waveform) / factor)
    frame = round(FRAME_S * sample_rate) // 2 * 2
    hop = frame // 2
    seek = round(SEEK_S * sample_rate)
    if factor == 1.0 or len(waveform) < 2 * frame:
        return waveform[:wanted]
    count = wanted // hop + 2
    last_start = int((count - 1) * hop * factor)
    source = np.pad(waveform, (seek, max(0, last_start + frame + hop + 2 * seek - len(waveform))))
    window = np.hanning(frame + 1)[:frame].astype(np.float32)
    output = np.zeros(count * hop + frame, np.float32)
    position = seek
    output[:frame] = source[position : position + frame] * window
    output[:hop] = source[position : position + hop]
    for index in range(1, count):
        natural = source[position + hop : position + hop + frame]
        centre = seek + int(index * hop * factor)
        region = source[centre - seek : centre + seek + frame]
        position = centre - seek + int(np.argmax(np.correlate(region, natural, mode="valid")))
        output[index * hop : index * hop + frame] += source[position : position + frame] * window
    return output[:wanted]
