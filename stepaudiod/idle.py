"""When to leave: awake → draining → gone. No I/O; the clock is injected.

    awake     work comes and goes; the idle clock runs whenever none is in flight
    draining  nothing is accepted any more; anything that began in the meantime calls the exit off
    gone      STOPPING=1 has been said; there is no way back

Idle counts work, not connections: only `begin` and `end` move the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Phase(Enum):
    """Where the daemon is between its first connection and its exit."""

    AWAKE = "awake"
    DRAINING = "draining"
    GONE = "gone"


class IdleClock:
    """Counts the work in flight and the time since there was any.

    Args:
        timeout_s: seconds without work until the daemon may leave; None is never.
        now: a monotonic clock, in seconds.
    """

    def __init__(self, timeout_s: float | None, now: Callable[[], float]) -> None:
        self.timeout_s = timeout_s
        self.phase = Phase.AWAKE
        self.in_flight = 0
        self._now = now
        self._idle_since = now()

    def begin(self) -> None:
        """Work has come in; it calls off an exit that is being prepared."""
        self.in_flight += 1
        if self.phase is Phase.DRAINING:
            self.phase = Phase.AWAKE

    def end(self) -> None:
        """A piece of work is over, however it ended."""
        self.in_flight -= 1
        self._idle_since = self._now()

    @property
    def idle_s(self) -> float:
        """Seconds since there was work; 0 while there is."""
        return 0.0 if self.in_flight else self._now() - self._idle_since

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the daemon may leave if nothing comes; None is never."""
        return None if self.timeout_s is None else max(0.0, self.timeout_s - self.idle_s)

    @property
    def overdue_s(self) -> float:
        """Seconds since the daemon may leave; 0 where it may not."""
        return 0.0 if self.timeout_s is None else max(0.0, self.idle_s - self.timeout_s)

    @property
    def is_due(self) -> bool:
        """Whether the daemon may start to leave."""
        return self.phase is Phase.AWAKE and not self.in_flight and self.remaining_s == 0

    def drain(self) -> None:
        """Nothing more is accepted; the exit can still be called off."""
        self.phase = Phase.DRAINING

    def call_off(self) -> None:
        """Somebody came; stay."""
        self.phase = Phase.AWAKE

    def leave(self) -> None:
        """There is no way back from here."""
        self.phase = Phase.GONE
