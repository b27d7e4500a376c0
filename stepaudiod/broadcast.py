"""Wakes what waits for a change, so that it need not look every moment. Doesn't know what has changed."""

from __future__ import annotations

import asyncio


class Broadcast:
    """Counts nothing and keeps nothing: each change wakes what waits at that moment."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """The next change: take it, then look, then wait for it; what changes meanwhile isn't missed."""
        return self._next

    def tell(self) -> None:
        """Something has changed."""
        self._next.set()
        self._next = asyncio.Event()


async def wait_for(change: asyncio.Event, timeout_s: float) -> None:
    """Wait for a change, at most so many seconds."""
    if not change.is_set():
        try:
            async with asyncio.timeout(timeout_s):
                await change.wait()
        except TimeoutError:
            pass
