"""Requests that may have files at a time, and which of them gives way: one whose body comes too slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from stepaudiod.config import Settings
from stepaudiod.errors import Busy, TooSlow
from stepaudiod.fair_queue import has_share
from stepaudiod.transfer_rate import TransferRate

GIVES_WAY_S = 0.1
"""Behind the least rate for so long, a body gives way to another that needs its place."""


class Arrival:
    """A request's body while it comes.

    Args:
        caller: the name under which the caller's share of places is counted.
        settings: the least rate, and how long a body may be behind it or come in all.
    """

    def __init__(self, caller: str, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self.caller = caller
        self.pace = TransferRate(settings.limits.min_rate, loop.time)
        self._settings = settings
        self._deadline = loop.time() + settings.timeouts.upload
        self._timeout: asyncio.Timeout | None = None
        self._has_given_way = False

    async def next_piece(self, stream: AsyncIterator[bytes]) -> bytes:
        """The next of the body's bytes.

        Raises:
            TooSlow: they came too slowly, or another request needed the place.
            StopAsyncIteration: there are no more.
        """
        timeouts, now = self._settings.timeouts, asyncio.get_running_loop().time()
        late = now + timeouts.body - self.pace.behind_s
        self.pace.start()
        try:
            async with asyncio.timeout_at(min(late, self._deadline)) as self._timeout:
                piece = await anext(stream)
        except TimeoutError:
            raise TooSlow(self._why(late)) from None
        finally:
            self.pace.stop()
        self.pace.count(len(piece))
        return piece

    def _why(self, late: float) -> str:
        """What was too slow."""
        if self._has_given_way:
            return "The body came so slowly that another request needed its place. Send it faster."
        timeouts, rate = self._settings.timeouts, self._settings.limits.min_rate
        if late < self._deadline:
            return f"The body stopped coming, or came at less than {rate:g} bytes/s, for {timeouts.body:g} s."
        return f"The body took longer than {timeouts.upload:g} s (timeouts.upload)."

    def give_way(self) -> None:
        """Stop waiting for the rest."""
        assert self._timeout is not None
        self._has_given_way = True
        if not self._timeout.expired():  # otherwise it is about to stop by itself
            self._timeout.reschedule(0)


class UploadSlots:
    """As many as are worked on and wait; each caller has a share.

    Args:
        settings: the configuration as it is now.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._taken: dict[object, Arrival] = {}

    def take(self, owner: object, arrival: Arrival) -> None:
        """Take one; where there is none, from the body that is furthest behind.

        Args:
            owner: gives it back.
            arrival: the body that the place is for.

        Raises:
            Busy: there is none, and every body comes fast enough.
        """
        limits = self._settings().limits
        callers = [each.caller for each in self._taken.values()]
        if not has_share(arrival.caller, callers, limits.concurrency + limits.max_queue):
            waiting = [owner for owner, each in self._taken.items() if each.pace.is_running]
            slowest = max(waiting, key=lambda each: self._taken[each].pace.behind_s, default=None)
            if slowest is None or self._taken[slowest].pace.behind_s < GIVES_WAY_S:
                count = len(callers)
                raise Busy(f"{count} recordings are being sent or worked on already. Try again in 1 s.", 1)
            self._taken.pop(slowest).give_way()
        self._taken[owner] = arrival

    @property
    def are_coming(self) -> bool:
        """Whether any of the bodies that have a place is still being waited for."""
        return any(each.pace.is_running for each in self._taken.values())

    def give_back(self, owner: object) -> None:
        """Leave it to the next; nothing where it has been taken away."""
        self._taken.pop(owner, None)
