"""Counters since the daemon started. One `Counters` is passed to what counts; `web/metrics.py` exports it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence

OUTCOMES = ("served", "failed", "cancelled", "refused")
"""How a request ends: done, with an error, cancelled by its client, rejected by a full queue."""

DURATION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
FIRST_AUDIO_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
REAL_TIME_FACTOR = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10)


class Histogram:
    """A histogram with these upper bounds and a last one without a bound, and the sum of all values."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        self.sum += value
        self._counts[bisect_left(self.bounds, value)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound with the number of values up to it, cumulative as in Prometheus."""
        total, buckets = 0, []
        for bound, count in zip([*(f"{b:g}" for b in self.bounds), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets


class Counters:
    """All counters of one daemon, by engine where nothing else is said.

    Attributes:
        requests: requests by (kind, outcome); kinds are `speech`, `edit` and `transcription`.
        duration: seconds from a request's arrival to its end, by kind.
        first_audio: seconds from a request's arrival to its first audio.
        real_time_factor: the worker's seconds per second of audio.
        audio_s: seconds of generated audio.
        answers: HTTP responses by (endpoint, status).
        worker_deaths: workers that ended unexpectedly: `died` or `hung`.
        load_s: seconds spent loading.
        checkpoints: workers taken off the GPU, `done` or `failed`.
        restores: workers put back, `done` or `failed`; `no_room` where other processes held the card.
        restore_s: seconds spent restoring.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.duration: dict[str, Histogram] = defaultdict(lambda: Histogram(DURATION_S))
        self.first_audio: dict[str, Histogram] = defaultdict(lambda: Histogram(FIRST_AUDIO_S))
        self.real_time_factor: dict[str, Histogram] = defaultdict(lambda: Histogram(REAL_TIME_FACTOR))
        self.audio_s: dict[str, float] = defaultdict(float)
        self.answers: Counter[tuple[str, int]] = Counter()
        self.worker_starts = 0
        self.worker_deaths: Counter[str] = Counter()
        self.loads: Counter[str] = Counter()
        self.load_s: dict[str, float] = defaultdict(float)
        self.unloads: Counter[str] = Counter()
        self.checkpoints: Counter[str] = Counter()
        self.restores: Counter[str] = Counter()
        self.restore_s = 0.0

    def ended(self, outcome: str) -> int:
        return sum(count for (_, how), count in self.requests.items() if how == outcome)

    def loaded(self, engine: str, duration_s: float) -> None:
        self.loads[engine] += 1
        self.load_s[engine] += duration_s
