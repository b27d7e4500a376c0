"""When to exit because of idleness. No I/O; the clock is injected.

    awake     requests are served; the idle clock runs while none is in flight
    draining  no connection is accepted; work that begins now cancels the exit
    gone      STOPPING=1 has been sent; the exit can't be cancelled

Idleness counts work, not connections: only `begin` and `end` move the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Phase(Enum):
    AWAKE = "awake"
    DRAINING = "draining"
    GONE = "gone"


class IdleClock:
    """Counts the work in flight and the time since the last work, for a timeout that may be None: never."""

    def __init__(self, timeout_s: float | None, now: Callable[[], float]) -> None:
        self.timeout_s = timeout_s
        self.phase = Phase.AWAKE
        self.in_flight = 0
        self._now = now
        self._idle_since = now()

    def begin(self) -> None:
        """Count a piece of work; cancels an exit that is being prepared."""
        self.in_flight += 1
        if self.phase is Phase.DRAINING:
            self.phase = Phase.AWAKE

    def end(self) -> None:
        self.in_flight -= 1
        self._idle_since = self._now()

    @property
    def idle_s(self) -> float:
        """Seconds since the last work; 0 while there is some."""
        return 0.0 if self.in_flight else self._now() - self._idle_since

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the daemon may exit if no work comes; None is never."""
        return None if self.timeout_s is None else max(0.0, self.timeout_s - self.idle_s)

    @property
    def overdue_s(self) -> float:
        """Seconds since the daemon may exit; 0 if it may not."""
        return 0.0 if self.timeout_s is None else max(0.0, self.idle_s - self.timeout_s)

    @property
    def is_due(self) -> bool:
        return self.phase is Phase.AWAKE and not self.in_flight and self.remaining_s == 0

    def drain(self) -> None:
        """Prepare the exit; it can still be cancelled."""
        self.phase = Phase.DRAINING

    def cancel_exit(self) -> None:
        self.phase = Phase.AWAKE

    def exit(self) -> None:
        """Make the exit final."""
        self.phase = Phase.GONE
