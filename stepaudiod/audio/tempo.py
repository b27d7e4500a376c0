"""Speech made faster or slower at the same pitch (WSOLA), for speeds that a voice itself can't reach.

source   ──[ frame ]────[ frame ]────[ frame ]──     frames taken every hop × factor samples, each moved by
output   ──[ frame ]──[ frame ]──[ frame ]──         up to ±seek to where it continues the last one best
"""

from __future__ import annotations

import numpy as np

from stepaudiod.audio.types import Waveform

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
    """
    stream = TempoStream(factor, sample_rate)
    return np.concatenate([stream.push(waveform), stream.finish()])


class TempoStream:
    """The same for speech that comes in pieces, with the same result.

    Args:
        factor: over 1 is faster.
        sample_rate: Hz.

    Source: Verhelst and Roelands, "An overlap-add technique based on waveform similarity", 1993.
    """

    def __init__(self, factor: float, sample_rate: int) -> None:
        self._factor = factor
        self._frame = round(FRAME_S * sample_rate) // 2 * 2
        self._hop = self._frame // 2
        self._seek = round(SEEK_S * sample_rate)
        self._window = np.hanning(self._frame + 1)[: self._frame].astype(np.float32)
        # what may still be looked at; its first sample is number `first` of the padded source
        self._source = np.zeros(self._seek, np.float32)
        self._first = 0
        self._position = self._seek
        self._index = 0
        self._tail = np.zeros(self._hop, np.float32)
        self._ready = np.zeros(0, np.float32)
        self._taken = self._given = 0

    def push(self, waveform: Waveform) -> Waveform:
        """Take `(samples,)`; give what is ready."""
        self._taken += len(waveform)
        if self._factor == 1.0:
            self._given += len(waveform)
            return waveform
        self._source = np.concatenate([self._source, waveform])
        self._run()
        # a last frame may reach beyond the end, and there is no taking back
        count = min(len(self._ready), max(0, int(self._taken / self._factor) - self._given))
        given, self._ready = self._ready[:count], self._ready[count:]
        self._given += count
        return given

    def finish(self) -> Waveform:
        """Give the rest; the whole is then `round(samples / factor)` long."""
        wanted = round(self._taken / self._factor) - self._given
        while len(self._ready) < wanted and self._factor != 1.0:
            self._source = np.concatenate([self._source, np.zeros(self._reach(), np.float32)])
            self._run()
        return self._ready[:wanted]

    def _reach(self) -> int:
        """Samples beyond the source's beginning that the next frame may look at."""
        centre = self._seek + int(self._index * self._hop * self._factor)
        end = max(centre + self._seek, self._position + self._hop) + self._frame
        return end - self._first

    def _run(self) -> None:
        """Place every frame that the source already holds in full."""
        parts = [self._ready]
        while self._reach() <= len(self._source):
            parts.append(self._next_frame())
        self._ready = np.concatenate(parts)

    def _next_frame(self) -> Waveform:
        """Place one frame where it continues the last one best; give the half that is complete."""
        if self._index:
            natural = self._at(self._position + self._hop, self._frame)
            low = int(self._index * self._hop * self._factor)  # the centre less the seek
            region = self._at(low, self._frame + 2 * self._seek)
            self._position = low + int(np.argmax(np.correlate(region, natural, mode="valid")))
        frame = self._at(self._position, self._frame)
        windowed = frame * self._window
        ready = self._tail + windowed[: self._hop] if self._index else frame[: self._hop]
        self._tail = windowed[self._hop :]
        self._index += 1
        self._forget()
        return ready

    def _at(self, start: int, samples: int) -> Waveform:
        return self._source[start - self._first : start - self._first + samples]

    def _forget(self) -> None:
        """Drop what no later frame looks at."""
        needed = min(int(self._index * self._hop * self._factor), self._position)
        if needed - self._first > 1 << 16:
            self._source = self._source[needed - self._first :]
            self._first = needed
