"""What has been done since the daemon started, in plain numbers. Knows no HTTP and no Prometheus.

Everybody who does something worth counting is handed the one `Counters` and adds to it; `web/metrics.py`
reads it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence

OUTCOMES = ("served", "failed", "cancelled", "refused")
"""How a request's work ends: done, with an error, left by its client, turned away by a full queue."""

DURATION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
FIRST_AUDIO_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60)
REAL_TIME_FACTOR = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10)


class Histogram:
    """How often a value fell under each bound, and the sum of all.

    Args:
        bounds: upper bounds, rising; a last one without a bound is added.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """One more value."""
        self.sum += value
        self._counts[bisect_left(self.bounds, value)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound with the number of values up to it, as Prometheus counts."""
        total, buckets = 0, []
        for bound, count in zip([*(f"{b:g}" for b in self.bounds), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets


class Counters:
    """Everything that is counted.

    Attributes:
        requests: work by (kind, outcome); kinds are `speech`, `edit` and `transcription`.
        duration: seconds from a request's arrival to its end, by kind.
        first_audio: seconds from a request's arrival to its first sound, by engine.
        real_time_factor: the worker's seconds for a second of sound, by engine.
        audio_s: seconds of sound made, by engine.
        answers: HTTP responses by (endpoint, status).
        worker_starts: workers started.
        worker_deaths: workers that ended although nobody wanted it: `died` or `hung`.
        loads: engines loaded, by name.
        load_s: seconds that took, by name.
        unloads: engines given up again, by name, however.
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

    def ended(self, outcome: str) -> int:
        """Requests that ended so, of every kind."""
        return sum(count for (_, how), count in self.requests.items() if how == outcome)

    @property
    def served(self) -> int:
        """Requests whose work was done to its end."""
        return self.ended("served")

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""
        return self.ended("failed")

    @property
    def cancelled(self) -> int:
        """Requests whose client left before the end."""
        return self.ended("cancelled")

    @property
    def refused(self) -> int:
        """Requests that a full queue turned away."""
        return self.ended("refused")

    def loaded(self, engine: str, duration_s: float) -> None:
        """An engine is in memory."""
        self.loads[engine] += 1
        self.load_s[engine] += duration_s
