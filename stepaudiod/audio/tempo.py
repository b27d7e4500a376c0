"""Speech made faster or slower at the same pitch, by FFmpeg's filter atempo (WSOLA)."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np

from stepaudiod.audio.types import Waveform

SLOWEST, FASTEST = 0.5, 2.0
"""The range of one filter: faster ones skip samples. Beyond it two are chained."""
FLUSH_S = 0.5
"""Silence after the end, so that the filter's output is long enough."""
FRAME = 512
"""Samples per frame: the filter holds about one frame of its output back."""


def change_tempo(waveform: Waveform, factor: float, sample_rate: int) -> Waveform:
    """Speech `factor` times as fast: `(samples,)` to `(round(samples / factor),)`."""
    stream = TempoStream(factor, sample_rate)
    return np.concatenate([stream.push(waveform), stream.finish()])


class TempoStream:
    """The same for speech in pieces, with the same result; the factor is 0.25 to 4."""

    def __init__(self, factor: float, sample_rate: int) -> None:
        self._factor = factor
        self._rate = sample_rate
        self._graph: Any = None
        self._source: Any = None
        self._sink: Any = None
        self._pushed = self._returned = 0
        self._ready: Waveform = np.zeros(0, np.float32)

    def push(self, waveform: Waveform) -> Waveform:
        """Process `(samples,)`; returns the output that is ready."""
        if self._factor == 1.0 or not waveform.size:
            return waveform
        self._filter(waveform)
        return self._take(int(self._pushed / self._factor))

    def finish(self) -> Waveform:
        """Return the rest; the whole is then `round(samples / factor)` long."""
        if not self._pushed:
            return self._ready
        wanted = round(self._pushed / self._factor)
        self._filter(np.zeros(round(FLUSH_S * self._rate * max(1.0, self._factor)), np.float32))
        return self._take(wanted)

    def _take(self, until: int) -> Waveform:
        count = max(0, until - self._returned)
        taken, self._ready = self._ready[:count], self._ready[count:]
        self._returned += len(taken)
        return taken

    def _filter(self, waveform: Waveform) -> None:
        import av

        if self._graph is None:
            self._open()
        parts = [self._ready]
        for start in range(0, waveform.size, FRAME):
            samples = np.ascontiguousarray(waveform[start : start + FRAME], np.float32).reshape(1, -1)
            frame: Any = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
            frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
            frame.pts = self._pushed
            self._pushed += samples.size
            self._source.push(frame)
            with suppress(av.BlockingIOError):
                while True:
                    parts.append(self._sink.pull().to_ndarray().reshape(-1))
        self._ready = np.concatenate(parts)

    def _open(self) -> None:
        import av.filter

        self._graph = graph = av.filter.Graph()
        self._source = graph.add_abuffer(
            sample_rate=self._rate, format="flt", layout="mono", time_base=Fraction(1, self._rate)
        )
        self._sink = graph.add("abuffersink")
        count = 1 if SLOWEST <= self._factor <= FASTEST else 2
        filters = [graph.add("atempo", f"{self._factor ** (1 / count):.9f}") for _ in range(count)]
        graph.link_nodes(self._source, *filters, self._sink).configure()
