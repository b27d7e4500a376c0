"""The life of the daemon: listen, serve, fall asleep without losing anybody, or drain when told to stop.

How to leave (sockets belong to systemd and outlive us):

    1. stop accepting: our copies of the listening descriptors close, the kernel keeps queueing on systemd's
    2. wait a moment for what was being accepted just then, and let the worker go
    3. look once more: a request, a connection that hasn't spoken yet, or unread bytes call the exit off
    4. STOPPING=1, close the quiet connections, exit 0

A connection that comes after 1 waits in the kernel's queue, and systemd starts the next instance for it.
"""

from __future__ import annotations

import asyncio
import logging
import select
import signal
from collections.abc import Callable, Mapping

import uvicorn
from starlette.types import ASGIApp

from stepaudiod.acceptor import Acceptor
from stepaudiod.broadcast import wait_for
from stepaudiod.config import Limits, Timeouts
from stepaudiod.connection import Connection
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.idle import IdleClock, Phase
from stepaudiod.log_rate_limit import LogRateLimit
from stepaudiod.systemd import Listener, Notifier, Role

log = logging.getLogger(__name__)

GRACE_S = 0.05
"""How long a connection may take from the kernel's accept to our list of connections."""

DRAIN_STEP_S = 0.05

LAST_WORDS_S = 1.0
"""How long what still runs at the end may take to notice; a task that is cancelled leaves a traceback."""

TICK_S = 1.0
"""How often to look where nothing has changed: the date in responses, the status line, the watchdog."""

LEAST_TICK_S = 0.1
"""How often to look at most, however much changes, and while only a connection prevents the exit."""

MALFORMED_LINES = 10
"""Lines a minute about requests that can't be read."""


class Server(uvicorn.Server):
    """Serves one application a role on every socket.

    Args:
        listeners: the listening sockets and what each serves.
        apps: the application of each role.
        timeouts: deadlines of connections and of draining.
        limits: how many connections there may be, and how slow.
        idle: decides when to leave.
        service: whose worker ends with us.
        notifier: tells systemd.
        reload: reads the configuration again.
    """

    def __init__(
        self,
        listeners: list[Listener],
        apps: Mapping[Role, ASGIApp],
        timeouts: Timeouts,
        limits: Limits,
        idle: IdleClock,
        service: Dispatcher,
        notifier: Notifier,
        reload: Callable[[], None],
    ) -> None:
        self._configs = {role: _uvicorn_config(app, timeouts) for role, app in apps.items()}
        super().__init__(self._configs["http"])
        self.timeouts = timeouts
        self.limits = limits
        self._malformed = LogRateLimit(log, MALFORMED_LINES)
        self._acceptor = Acceptor(
            listeners, self._connect, self.server_state.connections, lambda: self.limits
        )
        self._listeners = listeners
        self._idle = idle
        self._service = service
        self._notifier = notifier
        self._reload = reload
        self._last_beat = 0.0

    async def serve(self, sockets: object = None) -> None:
        """The whole life, from READY=1 to the last byte."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        for config in self._configs.values():
            config.load()
        self._acceptor.start()
        self._notifier.ready()
        log.info("ready on %s", ", ".join(f"{each} ({each.role})" for each in self._listeners))
        await self.main_loop()
        if self._idle.phase is not Phase.GONE:
            await self._drain()
        await self._close_connections()

    def _stop(self) -> None:
        """Told to stop; told twice, at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._service.changes.tell()

    def _on_hangup(self) -> None:
        """Told to read the configuration again."""
        self._notifier.reloading()
        self._reload()
        self._notifier.ready()
        self._service.changes.tell()

    async def main_loop(self) -> None:
        """Tick when something has changed, when it is time to leave, and once a second.

        Uvicorn ticks ten times a second, and waking alone is most of what an idle front costs.
        """
        while True:
            change = self._service.changes.next()
            if await self.on_tick(0):
                return
            await wait_for(change, self._pause_s())
            if change.is_set() and not self.should_exit:
                await asyncio.sleep(LEAST_TICK_S)

    def _pause_s(self) -> float:
        """Seconds until the next tick if nothing changes."""
        until_due_s = self._idle.remaining_s
        pause_s = TICK_S if until_due_s is None else min(TICK_S, until_due_s)
        if self._notifier.watchdog_s:
            pause_s = min(pause_s, self._notifier.watchdog_s / 3)
        return max(LEAST_TICK_S, pause_s)

    async def on_tick(self, counter: int) -> bool:
        """A sign of life, the status line, and whether to leave."""
        if await super().on_tick(counter):
            return True
        self._tell()
        return self._idle.is_due and self._may_try_to_leave() and await self._try_to_leave()

    def _may_try_to_leave(self) -> bool:
        """Whether no connection is busy, but for those that have kept silent, and those that just came.

        A silent connection is waited for as long as one request's headers may take. After that, others that
        keep silent too can't hold the daemon awake.
        """
        if not self._is_patience_over:
            return not self._busy_connections()
        return all(c.is_quiet or c.is_silent or c.is_new for c in self._connections())

    @property
    def _is_patience_over(self) -> bool:
        """Whether silent connections have kept the daemon awake for long enough."""
        return self._idle.overdue_s >= self.timeouts.header

    def _tell(self) -> None:
        """The watchdog gets its beat from here, so that a blocked event loop is a dead daemon."""
        self._notifier.status(self._service.status())
        now = asyncio.get_running_loop().time()
        if self._notifier.watchdog_s and now - self._last_beat >= self._notifier.watchdog_s / 3:
            self._last_beat = now
            self._notifier.watchdog()

    async def _try_to_leave(self) -> bool:
        """Steps 1 to 3 of leaving; whether nothing called it off."""
        self._idle.drain()
        self._acceptor.stop()
        await asyncio.sleep(GRACE_S)
        while self._is_patience_over and any(c.is_new for c in self._connections()):
            await asyncio.sleep(GRACE_S)
        if self._may_leave():
            await self._service.end_worker("has no more work")
        if self._may_leave():
            self._idle.leave()
            self._notifier.stopping()
            log.info("nothing to do: asleep until the next connection")
            return True
        self._idle.call_off()
        self._acceptor.start()
        return False

    def _may_leave(self) -> bool:
        """Nobody has come, and nobody is about to be heard."""
        if self._idle.phase is not Phase.DRAINING or self._acceptor.is_handing_over:
            return False
        if not self._may_try_to_leave():
            return False
        if not self._notifier.has_manager and self._somebody_waits():
            return False
        return not any(connection.has_unread_bytes() for connection in self._connections())

    def _somebody_waits(self) -> bool:
        """Whether a connection is queued on a socket; without a manager nobody would start for it."""
        poll = select.poll()
        for listener in self._listeners:
            poll.register(listener.socket, select.POLLIN)
        return bool(poll.poll(0))

    def _connections(self) -> list[Connection]:
        """Every open connection."""
        return [c for c in self.server_state.connections if isinstance(c, Connection)]

    def _busy_connections(self) -> bool:
        """Whether any connection has something to say or to hear, or hasn't spoken yet."""
        connections = self._connections()
        watching = sum(c.is_watching for c in connections)
        return len(self.server_state.tasks) > watching or not all(c.is_quiet for c in connections)

    def _connect(self, listener: Listener) -> Connection:
        """The protocol of a new connection."""
        config = self._configs[listener.role]
        min_rate, malformed = self.limits.min_rate, self._malformed
        return Connection(self.timeouts, config, self.server_state, listener.reach, min_rate, malformed)

    async def _drain(self) -> None:
        """Serve what has been accepted, within the deadline; then end the worker."""
        log.info("stopping")
        self._notifier.stopping()
        self._acceptor.stop()
        await asyncio.sleep(GRACE_S)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeouts.drain
        while self._busy_connections() and loop.time() < deadline and not self.force_exit:
            for connection in self._connections():
                connection.wind_down()
            self._notifier.extend_timeout(5)
            self._tell()
            await asyncio.sleep(DRAIN_STEP_S)
        await self._service.close()

    async def _close_connections(self) -> None:
        """Cut those that only watch, let what is still being answered end, and close the rest."""
        for connection in self._connections():
            if connection.is_watching or connection.is_silent:
                connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS_S)
        for connection in self._connections():
            connection.transport.close()


def _uvicorn_config(app: ASGIApp, timeouts: Timeouts) -> uvicorn.Config:
    """Uvicorn as we use it: HTTP/1.1 alone, our logging, no lifespan."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # its warnings have no limit and name no client
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=timeouts.keep_alive,  # type: ignore[arg-type]
    )
