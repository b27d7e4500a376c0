"""One client's connection: uvicorn's HTTP/1.1 protocol with deadlines, and errors in OpenAI's form.

Uvicorn waits for ever for a request that never comes, and for a client that never reads. Here each of the two
has a deadline, and a connection can say whether closing it would lose anything (`is_quiet`).
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import socket
import struct
import sys
import termios
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from stepaudiod.config import Timeouts
from stepaudiod.systemd import Reach
from stepaudiod.web.errors import error_body

SEND_BUFFER_BYTES = 256 * 1024
"""Small enough that a client which plays while it reads is seen to read."""

LINGER_S = 1.0
"""How long a refused client is listened to after the answer."""


def peer_of(connection: socket.socket) -> str:
    """Whose connection it is, for shares and for the journal: an IPv4 address, an IPv6 /64, or `uid 1000`.

    A household or a host is usually given a whole /64 (RFC 6177), so one address of it tells nothing.
    """
    if connection.family == socket.AF_UNIX:
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"uid {uid}"
    try:
        address = ipaddress.ip_address(connection.getpeername()[0].partition("%")[0])
    except (OSError, ValueError):  # it has gone already
        return "gone"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


class Connection(H11Protocol):
    """One client.

    Args:
        timeouts: how long to wait for a request's headers, and for a client that has stopped reading.
        config: uvicorn's configuration, which holds the application of this socket.
        server_state: what all connections share.
        reach: from where its socket can be reached; every request's `scope["state"]["reach"]`.
    """

    def __init__(self, timeouts: Timeouts, config: Config, server_state: ServerState, reach: Reach) -> None:
        super().__init__(config, server_state, {"reach": reach})
        self.timeout_keep_alive = timeouts.keep_alive  # type: ignore[assignment]
        self._timeouts = timeouts
        self._header_deadline: asyncio.TimerHandle | None = None
        self._reading_deadline: asyncio.TimerHandle | None = None
        self._is_refused = False

    @property
    def is_quiet(self) -> bool:
        """Whether it has been answered all it asked, and nothing of a next request has come."""
        if self.transport.get_write_buffer_size():
            return False
        if self._is_refused or self.is_watching:
            return True
        return self._is_answered and self._header_deadline is None

    @property
    def is_watching(self) -> bool:
        """Whether it hears how the daemon is, for as long as the daemon is: it may be cut at any moment."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        return bool(self.cycle.scope.get("state", {}).get("is_watching"))

    @property
    def _is_answered(self) -> bool:
        """Whether there was a request, and its response is complete."""
        return self.cycle is not None and self.cycle.response_complete

    def has_unread_bytes(self) -> bool:
        """Whether the kernel holds something from the client that we haven't seen yet."""
        fd = self.transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(fd)) as connection:
            try:
                return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except OSError:
                return False

    def wind_down(self) -> None:
        """Close as soon as nothing is lost by it; a client that hasn't spoken yet keeps its turn."""
        if self.is_watching:
            self.transport.close()
        elif self.is_quiet or (self.cycle is not None and not self.cycle.response_complete):
            self.shutdown()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come: it has until the deadline to say what it wants."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self.app_state["peer"] = peer_of(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        transport.set_write_buffer_limits(0)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """The deadline runs from the first byte of a request to the end of its headers."""
        if self._is_refused:
            return
        if self.is_quiet:
            self._expect_headers()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_expecting()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_expecting()
        self.resume_writing()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """What has come of a next request by now has its deadline from here."""
        super().on_response_complete()
        if self._is_answered and self._header_deadline is None and cast(Any, self.conn)._receive_buffer:
            self._expect_headers()

    def _expect_headers(self) -> None:
        """Start the deadline."""
        self._header_deadline = self.loop.call_later(self._timeouts.header, self._headers_are_late)

    def _stop_expecting(self) -> None:
        """The headers are here, or nobody is."""
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None

    def _headers_are_late(self) -> None:
        """Half a request gets an error; a connection that never said a word is just closed."""
        self._header_deadline = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0] or cast(Any, self.conn)._receive_buffer:
            self._refuse(408, f"The request's headers did not come within {self._timeouts.header:g} s.")
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client reads too slowly; from here it has a deadline to read on."""
        super().pause_writing()
        self._expect_reading(self._unread_bytes())

    def _unread_bytes(self) -> int:
        """Bytes written that the client's machine hasn't taken: ours and the kernel's (tcp(7), SIOCOUTQ)."""
        fd = self.transport.get_extra_info("socket").fileno()
        kernel = int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return self.transport.get_write_buffer_size() + kernel

    def _expect_reading(self, unread_bytes: int) -> None:
        """Start the deadline; whoever has read something by then gets another."""
        deadline_s = self._timeouts.client
        self._reading_deadline = self.loop.call_later(deadline_s, self._reading_is_late, unread_bytes)

    def _reading_is_late(self, unread_bytes: int) -> None:
        """The deadline is over."""
        now_unread = self._unread_bytes()
        if now_unread < unread_bytes:
            self._expect_reading(now_unread)
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        """The client reads on."""
        if self._reading_deadline is not None:
            self._reading_deadline.cancel()
            self._reading_deadline = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that aren't HTTP, in OpenAI's error form."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(status, f"This isn't a request that can be read: {error or msg}.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close; where an answer has begun, only close.

        What the client still sends is read and dropped for a moment: closing on unread bytes would reset the
        connection, and the client would never see the answer (RFC 9112, section 9.6).
        """
        self._stop_expecting()
        self._is_refused = True
        if self.cycle is not None:  # its body is what can't be read: the application has nobody to answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = error_body(message, status)
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            headers.append((b"content-length", str(len(body)).encode()))
            for event in (
                h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            if self.transport.can_write_eof():
                self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
