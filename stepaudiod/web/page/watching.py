"""`GET /page/watch`: the status as server-sent events, until the daemon exits.

A page that watches doesn't poll, and so never wakes a daemon that has exited: the end of the stream tells it
of the exit. The connection counts as quiet: it neither keeps the daemon awake nor delays its exit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stepaudiod.broadcast import Broadcast, wait_for
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.errors import EngineUnavailable
from stepaudiod.idle import IdleClock
from stepaudiod.web import models
from stepaudiod.web.endpoint import EVENTS
from stepaudiod.web.stream import UNBUFFERED, event

HEADERS = {"Cache-Control": "no-cache"} | UNBUFFERED
MIN_STEP_S = 0.5
"""Minimum time between two events."""

STEP_S = 1.0
"""Polling interval for changes that aren't notified: the clock, the folders of models and voices."""


class Feed:
    """The stream of events, shared by all tabs; an event is made only when something has changed."""

    def __init__(self) -> None:
        self._latest = b""
        self._events_made = Broadcast()
        self._tabs = 0
        self._writing: asyncio.Task[None] | None = None

    async def watch(self, request: Request) -> Response:
        return StreamingResponse(self._events(request), headers=HEADERS, media_type=EVENTS)

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        """The current status, then each change."""
        service, idle = request.app.state.service, request.app.state.idle
        request.scope["state"]["is_watching"] = True  # the exit of the daemon may cut off the response now
        self._tabs += 1
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(service, idle))
        writing = self._writing
        try:
            made = self._events_made.next()
            yield event(_status(service, idle))
            while not writing.done():
                await made.wait()
                made = self._events_made.next()
                yield self._latest
        finally:
            self._tabs -= 1
            if not self._tabs:
                writing.cancel()
                self._writing = None

    async def _write(self, service: Dispatcher, idle: IdleClock) -> None:
        """Make an event whenever the status, except the seconds, has changed."""
        before = _without_clock(_status(service, idle))
        try:
            while True:
                change = service.changes.next()
                status = _status(service, idle)
                if (now := _without_clock(status)) != before:
                    before, self._latest = now, event(status)
                    self._events_made.notify()
                    await asyncio.sleep(MIN_STEP_S)
                await wait_for(change, STEP_S)
        finally:
            self._events_made.notify()


def _status(service: Dispatcher, idle: IdleClock) -> dict[str, Any]:
    """The status, with the choice of the engine in parts, which the page translates."""
    try:
        choice = service.choice()
    except EngineUnavailable:
        parts: dict[str, Any] = {"engine": None, "setting": "", "passed_over": []}
    else:
        lacks = [lack._asdict() for lack in choice.passed_over]
        parts = {"engine": choice.engine.name, "setting": choice.setting, "passed_over": lacks}
    return models.describe_status(service, idle) | {"choice": parts}


def _without_clock(status: dict[str, Any]) -> dict[str, Any]:
    """The status without the seconds, which change all the time."""
    clock = ("idle_time", "time_until_unload")
    return {name: {k: v for k, v in part.items() if k not in clock} for name, part in status.items()}
