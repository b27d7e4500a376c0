"""A client's connection: uvicorn's HTTP/1.1 protocol with deadlines, and errors in OpenAI's form.

Uvicorn waits without limit for a request that never arrives, and for a client that never reads. Here both
have a deadline, and a connection knows whether closing it would lose anything (`is_quiet`).
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import logging
import socket
import struct
import sys
import termios
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from stepaudiod.config import Timeouts
from stepaudiod.log_rate_limit import LogRateLimit
from stepaudiod.systemd import Reach
from stepaudiod.transfer_rate import TransferRate
from stepaudiod.web.errors import error_body

SEND_BUFFER_BYTES = 256 * 1024
"""Small enough that a client which plays while it reads is seen to make progress."""

RECEIVE_BYTES = 64 * 1024
"""Read buffer. asyncio's is four times as large, which hundreds of unfinished bodies would each hold."""

SILENT_S = 1.0
"""An incomplete request this far behind the minimum rate no longer prevents the idle exit."""

STALLED_S = 5.0
"""A reading client this far behind the minimum rate may be evicted for another connection."""

LINGER_S = 1.0
"""How long input of a refused client is still read after the response."""


def peer_of(connection: socket.socket) -> str:
    """The peer's name, for fair shares and the journal: an IPv4 address, an IPv6 /64, or `uid 1000`.

    A site usually has a whole /64 or more (RFC 6177), so single IPv6 addresses don't identify it.
    """
    if connection.family == socket.AF_UNIX:
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"uid {uid}"
    try:
        address = ipaddress.ip_address(connection.getpeername()[0].partition("%")[0])
    except (OSError, ValueError):  # disconnected already
        return "gone"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def has_ambiguous_length(version: str, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether another HTTP parser may see the request end elsewhere (smuggling): RFC 9112, 6.1."""
    names = {name for name, _ in headers}
    return b"transfer-encoding" in names and (b"content-length" in names or version == "1.0")


class Connection(H11Protocol):
    """One client's connection.

    Args:
        timeouts: deadlines for a request's headers and for a client that has stopped reading.
        config: uvicorn's configuration, which holds the application of this socket.
        server_state: uvicorn's state, shared by all connections.
        reach: from where the socket can be reached; every request's `scope["state"]["reach"]`.
        min_rate: bytes per second that a client must send and read on average while it is waited for.
        malformed: the log for malformed requests.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        config: Config,
        server_state: ServerState,
        reach: Reach,
        min_rate: float,
        malformed: LogRateLimit,
    ) -> None:
        super().__init__(config, server_state, {"reach": reach})
        self.timeout_keep_alive = timeouts.keep_alive  # type: ignore[assignment]
        self._timeouts = timeouts
        self._header_deadline: asyncio.TimerHandle | None = None
        self._reading_deadline: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._malformed = malformed
        self._min_rate = min_rate
        self._sending = TransferRate(min_rate, self.loop.time)
        self._reading = TransferRate(min_rate, self.loop.time)
        self._unread_before = 0
        self._waiting_since = 0.0
        self.last_active = 0.0
        """Time of the connection, or of its last received bytes."""
        self.peer = ""
        """The peer's name, see `peer_of`."""

    @property
    def is_unfinished(self) -> bool:
        """Whether the rest of a request is awaited, or the first request."""
        if self._is_refused or self.flow.read_paused:
            return False
        is_body_missing = self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete
        return self._header_deadline is not None or is_body_missing

    @property
    def is_silent(self) -> bool:
        """Whether the awaited request arrives below the minimum rate, or not at all."""
        return self.is_unfinished and self._sending.behind_s >= SILENT_S

    @property
    def is_new(self) -> bool:
        """Whether a request has been awaited for too short a time to be silent."""
        return self.is_unfinished and self.loop.time() - self._waiting_since < SILENT_S

    @property
    def eviction_cost(self) -> int | None:
        """How much closing it would lose, least first; None if it is being served."""
        if self.is_watching:
            return 3
        if self.is_quiet:
            return 0
        if self.is_unfinished and self._sending.behind_s > 0.0:
            return 1
        if self._reading_deadline is not None:
            self._count_reading()
            return 2 if self._reading.behind_s >= STALLED_S else None
        return None

    @property
    def is_closed(self) -> bool:
        """Whether its descriptor is free in the loop's next iteration: no bytes are left to send."""
        return self.transport.is_closing() and not self.transport.get_write_buffer_size()

    def evict(self) -> bool:
        """Close in favour of another connection; return whether it could be closed."""
        if self.is_closed or self.has_unread_bytes():
            return False
        self._reset()
        return True

    def _reset(self) -> None:
        """Close at once; otherwise the kernel would go on sending its buffer (socket(7), SO_LINGER)."""
        if self._reading.is_running:
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def is_quiet(self) -> bool:
        """Whether every request has been answered completely, and no byte of another one has arrived."""
        if self.transport.get_write_buffer_size():
            return False
        if self._is_refused or self.is_watching:
            return True
        return self._is_answered and self._header_deadline is None

    @property
    def is_watching(self) -> bool:
        """Whether it receives the endless stream of status events, which may be cut at any moment."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        return bool(self.cycle.scope.get("state", {}).get("is_watching"))

    @property
    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def has_unread_bytes(self) -> bool:
        """Whether the kernel holds bytes from the client that have not been read and need an answer."""
        if self.is_watching or self.transport.is_closing():
            return False  # no request can follow the event stream on the same connection
        connection = socket.socket(fileno=self.transport.get_extra_info("socket").fileno())
        try:
            return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False
        finally:
            connection.detach()

    def close_gracefully(self) -> None:
        """Close as soon as nothing is lost by it; a client that hasn't sent its request yet may send it."""
        if self.is_watching:
            self.transport.close()
        elif self.is_quiet or (self.cycle is not None and not self.cycle.response_complete):
            self.shutdown()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self.peer = self.app_state["peer"] = peer_of(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        transport.set_write_buffer_limits(0)
        cast(Any, transport).max_size = RECEIVE_BYTES
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes; the deadline runs from a request's first byte to the end of its headers."""
        if self._is_refused:
            return
        self.last_active = self.loop.time()
        if self.is_quiet:
            self._expect_headers()
        self._sending.count(len(data))
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_expecting()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        # an ambiguous body length can hide a second request in the body: read nothing that follows
        if self.cycle is not before and has_ambiguous_length(self.scope["http_version"], self.headers):
            self.headers.append(CLOSE_HEADER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        self.resume_writing()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Start the header deadline of a next request that has begun to arrive."""
        super().on_response_complete()
        if self._is_answered and self._header_deadline is None and cast(Any, self.conn)._receive_buffer:
            self._expect_headers()

    def _expect_headers(self) -> None:
        self._waiting_since = self.last_active = self.loop.time()
        self._sending = TransferRate(self._min_rate, self.loop.time)
        self._sending.start()
        self._header_deadline = self.loop.call_later(self._timeouts.header, self._headers_are_late)

    def _stop_expecting(self) -> None:
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None

    def _headers_are_late(self) -> None:
        """Answer an incomplete request with an error; close a connection that has sent nothing."""
        self._header_deadline = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0] or cast(Any, self.conn)._receive_buffer:
            self._refuse(408, f"The request's headers did not come within {self._timeouts.header:g} s.")
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """Require the client to read at the minimum rate from here on."""
        super().pause_writing()
        self._unread_before = self._unread_bytes()
        self._reading.start()
        self._expect_reading()

    def _unread_bytes(self) -> int:
        """Bytes not acknowledged by the client: the transport's and the kernel's (tcp(7), SIOCOUTQ)."""
        fd = self.transport.get_extra_info("socket").fileno()
        kernel = int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return self.transport.get_write_buffer_size() + kernel

    def _expect_reading(self) -> None:
        """Check again at the time when a client that reads nothing more would be late."""
        left_s = self._timeouts.client - self._reading.behind_s
        self._reading_deadline = self.loop.call_later(left_s, self._reading_is_due)

    def _count_reading(self) -> None:
        """Count what the client has read; nothing has been written since the last count."""
        unread = self._unread_bytes()
        self._reading.count(max(0, self._unread_before - unread))
        self._unread_before = unread

    def _reading_is_due(self) -> None:
        """Reset the connection of a client that is `timeouts.client` behind the minimum rate."""
        self._count_reading()
        if self._reading.behind_s < self._timeouts.client:
            self._expect_reading()
        else:
            self._reading_deadline = None
            self._reset()

    def resume_writing(self) -> None:
        if self._reading_deadline is not None:
            self._reading_deadline.cancel()
            self._reading_deadline = None
            self._reading.count(self._unread_before)
            self._reading.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP with an error in OpenAI's form."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._malformed.log(logging.INFO, "refused %s: not an HTTP request: %s", self.peer, error or msg)
        self._refuse(status, f"This isn't a request that can be read: {error or msg}.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error and close; if a response has begun, only close.

        Further input is read and dropped for LINGER_S: closing with unread bytes would reset the connection,
        and the client would never see the response (RFC 9112, section 9.6).
        """
        self._stop_expecting()
        self._is_refused = True
        if self.cycle is not None:  # its body can't be parsed, so the application can't answer it
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
