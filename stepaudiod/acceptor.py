"""Accepts connections up to a limit; further connections wait in the kernel's queue.

A process that runs out of file descriptors loses connections, so the limit is below the system's. At the
limit, the connections with the lowest eviction cost are closed (`Connection.eviction_cost`). If none can be
closed, new connections wait.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from stepaudiod.config import Limits
from stepaudiod.connection import Connection
from stepaudiod.log_rate_limit import LogRateLimit
from stepaudiod.systemd import BACKLOG, Listener

log = logging.getLogger(__name__)

ACCEPTS_AT_ONCE = 64
"""Connections accepted before the event loop runs other callbacks."""

RESERVED = 64
"""Descriptors for the daemon itself: sockets, the worker, the libraries' files."""

EVICTED_FRACTION = 16
"""1/16 of all connections is evicted at a time: choosing them costs more than closing them."""

RETRY_S = 0.1
"""Pause before accepting again, where no connection can be evicted."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def max_connections(limits: Limits) -> int:
    """The configured limit, and at most half of the file descriptors, since requests need files too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits.max_connections
    return max(8, min(limits.max_connections, (soft - RESERVED) // 2))


class Acceptor:
    """Accepts on duplicates of the listening sockets: closing a duplicate leaves the socket listening."""

    def __init__(
        self,
        listeners: list[Listener],
        make: Callable[[Listener], Connection],
        connections: set[Any],
        limits: Callable[[], Limits],
    ) -> None:
        self._listeners = listeners
        self._make = make
        self._connections = connections
        self._limits = limits
        self._copies: list[tuple[Listener, socket.socket]] = []
        self._handing_over: set[asyncio.Task[Any]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._full = LogRateLimit(log, 1)

    def start(self) -> None:
        for listener in self._listeners:
            copy = listener.socket.dup()
            copy.setblocking(False)
            listener.socket.listen(BACKLOG)
            self._copies.append((listener, copy))
        self._watch()

    def stop(self) -> None:
        """Stop accepting. The kernel queues new connections for the next process that listens."""
        self._unwatch()
        for _, copy in self._copies:
            copy.close()
        self._copies.clear()

    @property
    def is_handing_over(self) -> bool:
        """Whether a connection has been accepted and isn't in the set of open ones yet."""
        return bool(self._handing_over)

    def _watch(self) -> None:
        self._retry = None
        loop = asyncio.get_running_loop()
        for listener, copy in self._copies:
            loop.add_reader(copy, self._accept, listener, copy)

    def _unwatch(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        loop = asyncio.get_running_loop()
        for _, copy in self._copies:
            loop.remove_reader(copy)

    def _accept(self, listener: Listener, copy: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_AT_ONCE):
            count = len(self._connections) + len(self._handing_over)
            if count >= max_connections(self._limits()):
                self._evict(f"{count} connections are open, which is the limit (limits.max_connections)")
                return
            try:
                client, _ = copy.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._evict(f"no connection can be accepted: {error.strerror}")
                return
            client.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(lambda: self._make(listener), client))
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)

    def _evict(self, reason: str) -> None:
        """Close the connections of the lowest cost, first those of the peer with the most; else wait."""
        connections = [each for each in self._connections if isinstance(each, Connection)]
        if any(connection.is_closed for connection in connections):
            return  # their descriptors are free in the loop's next iteration
        peers = Counter(connection.peer for connection in connections)
        candidates = sorted(
            (cost, -peers[connection.peer], connection.last_active, id(connection), connection)
            for connection in connections
            if (cost := connection.eviction_cost) is not None
        )
        closed = 0
        for *_, connection in candidates:
            if closed > len(connections) // EVICTED_FRACTION:
                break
            closed += connection.evict()
        if not closed:
            self._unwatch()
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._watch)
        what = f"{closed} idle or slow ones were closed" if closed else "new ones wait in the kernel"
        self._full.log(logging.WARNING, "%s: %s", reason, what)
