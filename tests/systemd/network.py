"""Sockets in another network namespace.

Knows nothing of systemd.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message

Address = tuple[str, int] | str
"""A host and a port, or the path of a unix socket."""

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Reply:
    """An HTTP response, read to its end."""

    status: int
    headers: Message
    body: bytes


class Network:
    """The network, and the unix sockets, of one process.

    A socket belongs for good to the network in which it was made, so one thread lives there and makes all.
    """

    def __init__(self, pid: int) -> None:
        self._root = f"/proc/{pid}/root"
        self._inside = ThreadPoolExecutor(1, initializer=_enter, initargs=(pid,))

    def connect(self, address: Address, timeout_s: float = 30) -> socket.socket:
        """Connect, or raise OSError as `socket.connect` does."""
        if isinstance(address, str):
            made = socket.socket(socket.AF_UNIX)
            target: Address = self._root + address
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            made = self._inside.submit(socket.socket, family).result()
            target = address
        made.settimeout(timeout_s)
        try:
            made.connect(target)
        except OSError:
            made.close()
            raise
        return made

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Make a socket in the namespace, like `socket.socket`."""
        return self._inside.submit(socket.socket, family, kind, protocol).result()

    def listen(self, address: tuple[str, int]) -> socket.socket:
        """A listening TCP socket in the namespace."""
        made = self.make(socket.AF_INET, socket.SOCK_STREAM)
        made.bind(address)
        made.listen()
        return made

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        at: Address,
        timeout_s: float = 30,
    ) -> Reply:
        """A request on a new connection."""
        with contextlib.closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = self.connect(at, timeout_s)
            connection.request(method, path, body, {"Connection": "close", **(headers or {})})
            with connection.getresponse() as response:
                return Reply(response.status, response.headers, response.read())

    def close(self) -> None:
        """End the thread; open sockets stay open."""
        self._inside.shutdown()


def _enter(pid: int) -> None:
    """Move only the calling thread to that process's network."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(namespace, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(namespace)
