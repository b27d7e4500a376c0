"""Fair queue of requests: every caller gets an equal share of the concurrency and of the queue.

At most `limits.concurrency` requests hold a turn. A free turn goes to the caller that holds the fewest turns;
among one caller's requests, to the one that has waited longest. At most `limits.max_queue` requests wait.
Beyond that, a caller below its share of the queue may still wait, up to twice the limit in total.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from stepaudiod.config import Limits


def has_share(caller: str, taken: Iterable[str], limit: int) -> bool:
    """Whether a caller may take one more of `limit` slots; `taken` has the caller of each taken slot.

    A caller below its share may exceed the limit, up to twice the limit in total.
    """
    callers = list(taken)
    if len(callers) < limit:
        return True
    share = limit // len({*callers, caller})
    return callers.count(caller) < share and len(callers) < 2 * limit


class Turn:
    """One request's turn; `caller` is the name under which its share is counted."""

    __slots__ = ("caller", "is_new")

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.is_new = True
        """Whether the request has never held its turn; only such requests count as queued."""


class FairQueue:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: set[Turn] = set()
        self._waiting: dict[Turn, Callable[[], object]] = {}

    def reconfigure(self, limits: Limits) -> None:
        """Apply other limits: newly allowed turns are granted at once, and none is revoked."""
        self._limits = limits
        self._admit()

    @property
    def queued(self) -> int:
        """Number of requests that wait for their first turn."""
        return sum(turn.is_new for turn in self._waiting)

    def is_held(self, turn: Turn) -> bool:
        return turn in self._held

    def is_waiting(self, turn: Turn) -> bool:
        return turn in self._waiting

    def is_full(self, caller: str) -> bool:
        """Whether another request of this caller would be rejected."""
        if not self._waiting and len(self._held) < self._limits.concurrency:
            return False
        new = [turn.caller for turn in self._waiting if turn.is_new]
        return not has_share(caller, new, self._limits.max_queue)

    async def take(self, turn: Turn) -> None:
        granted = asyncio.Event()
        self.ask(turn, granted.set)
        try:
            await granted.wait()
        except asyncio.CancelledError:
            self.drop(turn)
            raise

    def ask(self, turn: Turn, granted: Callable[[], object]) -> None:
        """Request a turn; `granted` is called when the request has it, which may be at once."""
        self._waiting[turn] = granted
        self._admit()

    def drop(self, turn: Turn) -> None:
        """Release the turn, or stop waiting for it."""
        self._waiting.pop(turn, None)
        self._held.discard(turn)
        self._admit()

    def must_yield(self, turn: Turn) -> bool:
        """Whether a waiting caller would hold fewer turns than this one even after getting another."""
        held = self._count(turn.caller)
        return any(self._count(other.caller) + 1 < held for other in self._waiting)

    def _count(self, caller: str) -> int:
        return sum(turn.caller == caller for turn in self._held)

    def _admit(self) -> None:
        while self._waiting and len(self._held) < self._limits.concurrency:
            turn = min(self._waiting, key=lambda each: self._count(each.caller))
            granted = self._waiting.pop(turn)
            self._held.add(turn)
            turn.is_new = False
            granted()
