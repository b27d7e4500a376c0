"""Notifies waiting tasks of a change, so that they need not poll."""

from __future__ import annotations

import asyncio
import contextlib


class Broadcast:
    """Each `notify` wakes the tasks that wait at that moment; nothing is stored."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """The event of the next change. Take it before reading the state, so that no change is missed."""
        return self._next

    def notify(self) -> None:
        self._next.set()
        self._next = asyncio.Event()


async def wait_for(change: asyncio.Event, timeout_s: float) -> None:
    if not change.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await change.wait()
