"""Whether bytes move fast enough: how far a transfer is behind a least rate. The clock is injected."""

from __future__ import annotations

from collections.abc import Callable


class TransferRate:
    """The seconds that a transfer is behind its least rate, as a leaky bucket.

    Each second of waiting adds one, each byte takes off `1 / rate`, and being ahead isn't saved up. A
    transfer that has stopped is behind by the time since it stopped.

    Args:
        rate: bytes a second.
        now: a monotonic clock, in seconds.
    """

    __slots__ = ("_behind_s", "_now", "_rate", "_since")

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._behind_s = 0.0
        self._since: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether the other side is being waited for."""
        return self._since is not None

    @property
    def behind_s(self) -> float:
        """Seconds behind the least rate."""
        return self._behind_s + (0.0 if self._since is None else self._now() - self._since)

    def start(self) -> None:
        """From here the other side is being waited for."""
        if self._since is None:
            self._since = self._now()

    def stop(self) -> None:
        """From here it isn't."""
        self._behind_s, self._since = self.behind_s, None

    def count(self, size_bytes: int) -> None:
        """Bytes have moved."""
        self._behind_s = max(0.0, self.behind_s - size_bytes / self._rate)
        if self._since is not None:
            self._since = self._now()
