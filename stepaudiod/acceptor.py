"""Accepts connections as long as there is room for them; the rest waits in the kernel's queue.

A process that has no descriptor left loses connections, so there is a limit below the system's. At the limit,
those connections give way whose closing loses least (`Connection.spare_rank`). If none can, new ones wait.
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
"""Before anything else is looked at."""

RESERVED = 64
"""Descriptors for the daemon itself: sockets, the worker, the libraries' files."""

BATCH = 16
"""This part of all connections gives way at a time: choosing them costs more than closing them."""

RETRY_S = 0.1
"""How often to look for room where no connection can give way."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def most_connections(limits: Limits) -> int:
    """Connections at a time: as configured, and at most half of the descriptors: requests need files too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits.max_connections
    return max(8, min(limits.max_connections, (soft - RESERVED) // 2))


class Acceptor:
    """Accepts on copies of the listening sockets: closing a copy stops accepting and closes nothing.

    Args:
        listeners: the sockets.
        make: makes the protocol of a new connection.
        connections: those that are open, kept by others.
        limits: the configuration as it is now.
    """

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
        """Accept from here on."""
        for listener in self._listeners:
            copy = listener.socket.dup()
            copy.setblocking(False)
            listener.socket.listen(BACKLOG)
            self._copies.append((listener, copy))
        self._watch()

    def stop(self) -> None:
        """From here the kernel queues for whichever process listens next."""
        self._unwatch()
        for _, copy in self._copies:
            copy.close()
        self._copies.clear()

    @property
    def is_handing_over(self) -> bool:
        """Whether a connection has been accepted and isn't among the open ones yet."""
        return bool(self._handing_over)

    def _watch(self) -> None:
        """Be called when a connection waits."""
        self._retry = None
        loop = asyncio.get_running_loop()
        for listener, copy in self._copies:
            loop.add_reader(copy, self._accept, listener, copy)

    def _unwatch(self) -> None:
        """Leave connections in the kernel's queue."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        loop = asyncio.get_running_loop()
        for _, copy in self._copies:
            loop.remove_reader(copy)

    def _accept(self, listener: Listener, copy: socket.socket) -> None:
        """Accept what waits on one socket, as far as there is room."""
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_AT_ONCE):
            count = len(self._connections) + len(self._handing_over)
            if count >= most_connections(self._limits()):
                self._make_room(f"{count} connections are open, which is the limit (limits.max_connections)")
                return
            try:
                client, _ = copy.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._make_room(f"no connection can be accepted: {error.strerror}")
                return
            client.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(lambda: self._make(listener), client))
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)

    def _make_room(self, reason: str) -> None:
        """Close connections that lose least by it, first those of the peer with the most; else wait."""
        connections = [each for each in self._connections if isinstance(each, Connection)]
        if any(connection.is_closed for connection in connections):
            return  # their descriptors are free at the loop's next turn
        peers = Counter(connection.peer for connection in connections)
        spare = sorted(
            (rank, -peers[connection.peer], connection.last_active, id(connection), connection)
            for connection in connections
            if (rank := connection.spare_rank) is not None
        )
        closed = 0
        for *_, connection in spare:
            if closed > len(connections) // BATCH:
                break
            closed += connection.give_way()
        if not closed:
            self._unwatch()
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._watch)
        what = f"{closed} that lost least were closed" if closed else "new ones wait in the kernel"
        self._full.say(logging.WARNING, "%s: %s", reason, what)
