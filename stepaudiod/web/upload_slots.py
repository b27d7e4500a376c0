"""Slots for requests with files. A body that comes too slowly loses its slot to another request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from stepaudiod.config import Settings
from stepaudiod.errors import Busy, TooSlow
from stepaudiod.fair_queue import has_share
from stepaudiod.transfer_rate import TransferRate

GIVES_WAY_S = 0.1
"""A body that is behind the minimum rate for so long loses its slot if another needs one."""


class Arrival:
    """A request's body while it is received; `caller` is the name whose share of slots it counts in."""

    def __init__(self, caller: str, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self.caller = caller
        self.pace = TransferRate(settings.limits.min_rate, loop.time)
        self._settings = settings
        self._deadline = loop.time() + settings.timeouts.upload
        self._timeout: asyncio.Timeout | None = None
        self._has_given_way = False

    async def next_piece(self, stream: AsyncIterator[bytes]) -> bytes:
        """The next bytes of the body.

        Raises:
            TooSlow: they came too slowly, or another request needed the slot.
            StopAsyncIteration: the body is complete.
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
        if self._has_given_way:
            return "The body came so slowly that another request needed its place. Send it faster."
        timeouts, rate = self._settings.timeouts, self._settings.limits.min_rate
        if late < self._deadline:
            return f"The body stopped coming, or came at less than {rate:g} bytes/s, for {timeouts.body:g} s."
        return f"The body took longer than {timeouts.upload:g} s (timeouts.upload)."

    def give_way(self) -> None:
        assert self._timeout is not None
        self._has_given_way = True
        if not self._timeout.expired():  # an expired timeout stops it anyway
            self._timeout.reschedule(0)


class UploadSlots:
    """As many slots as requests in progress and in the queue; each caller has a share of them."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._taken: dict[object, Arrival] = {}

    def take(self, owner: object, arrival: Arrival) -> None:
        """Take a slot; if none is free, that of the body that is furthest behind its minimum rate.

        Raises:
            Busy: no slot is free, and every body comes fast enough.
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
        """Whether any body with a slot is still being received."""
        return any(each.pace.is_running for each in self._taken.values())

    def give_back(self, owner: object) -> None:
        self._taken.pop(owner, None)
