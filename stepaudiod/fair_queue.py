"""Which requests are worked on, and which wait: each caller has a share. Knows no HTTP and no worker.

At most `limits.concurrency` requests hold a turn. A turn that falls free goes to the caller with the fewest
turns; of one caller's requests, to the one that has waited longest. At most `limits.max_queue` requests wait.
Beyond that, a caller with less than its share of the queue may still wait, up to twice the limit in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from stepaudiod.config import Limits


def has_share(caller: str, taken: Iterable[str], limit: int) -> bool:
    """Whether a caller may have one more of `limit` places.

    Args:
        caller: the one that asks.
        taken: the caller of each place that is taken.
        limit: places for all. A caller with less than its share may go beyond it, up to twice the limit.
    """
    callers = list(taken)
    if len(callers) < limit:
        return True
    share = limit // len({*callers, caller})
    return callers.count(caller) < share and len(callers) < 2 * limit


class Turn:
    """The place of one request among those that are worked on.

    Args:
        caller: the name under which its share is counted.
    """

    __slots__ = ("caller", "is_new")

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.is_new = True
        """Whether it has never held a turn; such requests count as waiting."""


class FairQueue:
    """The turns of one daemon.

    Args:
        limits: how many requests may hold a turn and how many may wait.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: set[Turn] = set()
        self._waiting: dict[Turn, Callable[[], object]] = {}

    def reconfigure(self, limits: Limits) -> None:
        """Apply other limits: turns that they allow are given at once, and none is taken away."""
        self._limits = limits
        self._admit()

    @property
    def queued(self) -> int:
        """Requests that wait for their first turn."""
        return sum(turn.is_new for turn in self._waiting)

    def is_held(self, turn: Turn) -> bool:
        """Whether the request may be worked on."""
        return turn in self._held

    def is_waited_for(self, turn: Turn) -> bool:
        """Whether the request has asked for its turn and does not have it."""
        return turn in self._waiting

    def is_full(self, caller: str) -> bool:
        """Whether another request of this caller may neither begin nor wait."""
        if not self._waiting and len(self._held) < self._limits.concurrency:
            return False
        new = [turn.caller for turn in self._waiting if turn.is_new]
        return not has_share(caller, new, self._limits.max_queue)

    async def take(self, turn: Turn) -> None:
        """Wait for the first turn of a request."""
        granted = asyncio.Event()
        self.ask(turn, granted.set)
        try:
            await granted.wait()
        except asyncio.CancelledError:
            self.drop(turn)
            raise

    def ask(self, turn: Turn, granted: Callable[[], object]) -> None:
        """Ask for a turn; `granted` is called when the request has it, which may be at once."""
        self._waiting[turn] = granted
        self._admit()

    def drop(self, turn: Turn) -> None:
        """Give the turn back, or stop waiting for it."""
        self._waiting.pop(turn, None)
        self._held.discard(turn)
        self._admit()

    def must_yield(self, turn: Turn) -> bool:
        """Whether a caller waits that would still have fewer turns than this one after getting another."""
        held = self._count(turn.caller)
        return any(self._count(other.caller) + 1 < held for other in self._waiting)

    def _count(self, caller: str) -> int:
        """Turns that a caller holds."""
        return sum(turn.caller == caller for turn in self._held)

    def _admit(self) -> None:
        """Give the free turns."""
        while self._waiting and len(self._held) < self._limits.concurrency:
            turn = min(self._waiting, key=lambda each: self._count(each.caller))
            granted = self._waiting.pop(turn)
            self._held.add(turn)
            turn.is_new = False
            granted()
