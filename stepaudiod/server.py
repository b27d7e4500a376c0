"""The daemon's main loop: listen, serve, exit when idle without losing a connection, or drain when stopped.

The idle exit (the sockets belong to systemd and outlive this process):

    1. stop accepting: the duplicates of the listening sockets close, the kernel queues on systemd's
    2. wait a moment for connections that are being accepted, and end the worker
    3. check again: a request, a connection without its first request, or unread bytes cancel the exit
    4. STOPPING=1, close the quiet connections, exit 0

A connection that arrives after 1 waits in the kernel's queue, and systemd starts the next instance for it.
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
"""How long a connection may take from accept(2) to the set of open connections."""

DRAIN_STEP_S = 0.05

LAST_TASKS_S = 1.0
"""How long the last tasks may take to see the disconnect; cancelling them would log a traceback."""

TICK_S = 1.0
"""Longest pause between ticks: the date in responses, the status line, the watchdog."""

MIN_TICK_S = 0.1
"""Shortest pause between ticks, however much changes, and while only a connection prevents the exit."""

MALFORMED_LINES = 10
"""Log lines per minute about malformed requests."""


class Server(uvicorn.Server):
    """Serves on every socket the application of its role; `reload` reads the configuration again."""

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
        self._last_watchdog = 0.0

    async def serve(self, sockets: object = None) -> None:
        """Run from READY=1 to the last byte."""
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
        """Stop after draining; a second signal skips the draining."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._service.changes.notify()

    def _on_hangup(self) -> None:
        self._notifier.reloading()
        self._reload()
        self._notifier.ready()
        self._service.changes.notify()

    async def main_loop(self) -> None:
        """Tick when something has changed, when the idle exit is due, and once a second.

        Uvicorn ticks ten times a second, and these wakeups are most of an idle front's CPU time.
        """
        while True:
            change = self._service.changes.next()
            if await self.on_tick(0):
                return
            await wait_for(change, self._pause_s())
            if change.is_set() and not self.should_exit:
                await asyncio.sleep(MIN_TICK_S)

    def _pause_s(self) -> float:
        """Seconds until the next tick if nothing changes."""
        until_due_s = self._idle.remaining_s
        pause_s = TICK_S if until_due_s is None else min(TICK_S, until_due_s)
        if self._notifier.watchdog_s:
            pause_s = min(pause_s, self._notifier.watchdog_s / 3)
        return max(MIN_TICK_S, pause_s)

    async def on_tick(self, counter: int) -> bool:
        """Report to systemd; return whether to exit."""
        if await super().on_tick(counter):
            return True
        self._report()
        return self._idle.is_due and self._may_start_exit() and await self._try_exit()

    def _may_start_exit(self) -> bool:
        """Whether no connection is busy, except silent ones and new ones.

        A silent connection delays the exit for as long as one request's headers may take. After that, other
        silent connections don't delay it further.
        """
        if not self._ignores_silent:
            return not self._has_busy_connections()
        return all(c.is_quiet or c.is_silent or c.is_new for c in self._connections())

    @property
    def _ignores_silent(self) -> bool:
        """Whether silent connections have delayed the exit for as long as they may."""
        return self._idle.overdue_s >= self.timeouts.header

    def _report(self) -> None:
        """Send the status line and the watchdog's keep-alive: a blocked event loop sends none."""
        self._notifier.status(self._service.status())
        now = asyncio.get_running_loop().time()
        if self._notifier.watchdog_s and now - self._last_watchdog >= self._notifier.watchdog_s / 3:
            self._last_watchdog = now
            self._notifier.watchdog()

    async def _try_exit(self) -> bool:
        """Take steps 1 to 3 of the idle exit; return whether nothing cancelled it."""
        self._idle.drain()
        self._acceptor.stop()
        await asyncio.sleep(GRACE_S)
        while self._ignores_silent and any(c.is_new for c in self._connections()):
            await asyncio.sleep(GRACE_S)
        if self._may_exit():
            await self._service.end_worker("has no more work")
        if self._may_exit():
            self._idle.exit()
            self._notifier.stopping()
            log.info("nothing to do: asleep until the next connection")
            return True
        self._idle.cancel_exit()
        self._acceptor.start()
        return False

    def _may_exit(self) -> bool:
        """Whether no work has begun since step 1, and no request is about to arrive."""
        if self._idle.phase is not Phase.DRAINING or self._acceptor.is_handing_over:
            return False
        if not self._may_start_exit():
            return False
        if not self._notifier.has_manager and self._has_queued_connections():
            return False
        return not any(connection.has_unread_bytes() for connection in self._connections())

    def _has_queued_connections(self) -> bool:
        """Whether a connection waits in the kernel; without a manager no process would be started for it."""
        poll = select.poll()
        for listener in self._listeners:
            poll.register(listener.socket, select.POLLIN)
        return bool(poll.poll(0))

    def _connections(self) -> list[Connection]:
        return [c for c in self.server_state.connections if isinstance(c, Connection)]

    def _has_busy_connections(self) -> bool:
        """Whether any connection is being served or read, or hasn't sent its first request."""
        connections = self._connections()
        watching = sum(c.is_watching for c in connections)
        return len(self.server_state.tasks) > watching or not all(c.is_quiet for c in connections)

    def _connect(self, listener: Listener) -> Connection:
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
        while self._has_busy_connections() and loop.time() < deadline and not self.force_exit:
            for connection in self._connections():
                connection.close_gracefully()
            self._notifier.extend_timeout(5)
            self._report()
            await asyncio.sleep(DRAIN_STEP_S)
        await self._service.close()

    async def _close_connections(self) -> None:
        """Cut event streams and silent connections, let running responses end, and close the rest."""
        for connection in self._connections():
            if connection.is_watching or connection.is_silent:
                connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_TASKS_S)
        for connection in self._connections():
            connection.transport.close()


def _uvicorn_config(app: ASGIApp, timeouts: Timeouts) -> uvicorn.Config:
    """Configure uvicorn: HTTP/1.1 only, no logging of its own, no lifespan."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # its warnings are unlimited and name no client
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=timeouts.keep_alive,  # type: ignore[arg-type]
    )
