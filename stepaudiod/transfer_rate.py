"""How far a transfer is behind a minimum rate. The clock is injected."""

from __future__ import annotations

from collections.abc import Callable


class TransferRate:
    """The seconds that a transfer is behind its minimum rate in bytes per second, as a leaky bucket.

    Each second of waiting adds one, each byte subtracts `1 / rate`, and the value never goes below 0. A
    transfer that has stopped is behind by the time since it stopped.
    """

    __slots__ = ("_behind_s", "_now", "_rate", "_since")

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._behind_s = 0.0
        self._since: float | None = None

    @property
    def is_running(self) -> bool:
        return self._since is not None

    @property
    def behind_s(self) -> float:
        return self._behind_s + (0.0 if self._since is None else self._now() - self._since)

    def start(self) -> None:
        """Start waiting for the other side."""
        if self._since is None:
            self._since = self._now()

    def stop(self) -> None:
        self._behind_s, self._since = self.behind_s, None

    def count(self, size_bytes: int) -> None:
        self._behind_s = max(0.0, self.behind_s - size_bytes / self._rate)
        if self._since is not None:
            self._since = self._now()
