"""FIFO admission queue. A waiter that has not polled for 3 s loses its turn."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 3.0
"""A request whose sound is not read stops polling, and must not block others."""


class AdmissionQueue:
    """The waiters for one resource, with the time of each one's last poll. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._polled: dict[object, float] = {}

    def __len__(self) -> int:
        return len(self._polled)

    def is_first(self, waiter: object) -> bool:
        """Poll: join the queue if need be; returns whether it is this waiter's turn."""
        now = self._polled[waiter] = self._clock()
        return next(each for each, polled in self._polled.items() if now - polled < PATIENCE_S) == waiter

    def leave(self, waiter: object) -> None:
        """Leave the queue, when admitted or given up; leaving twice does nothing."""
        self._polled.pop(waiter, None)
