"""One client's connection: uvicorn's HTTP/1.1 protocol with deadlines, and errors in OpenAI's form.

Uvicorn waits for ever for a request that never comes, and for a client that never reads. Here each of the two
has a deadline, and a connection can say whether closing it would lose anything (`is_quiet`).
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
"""Small enough that a client which plays while it reads is seen to read."""

RECEIVE_BYTES = 64 * 1024
"""At a time. asyncio takes four times as much, which hundreds of unfinished bodies would each hold."""

SILENT_S = 1.0
"""Behind the least rate for so long, a request that hasn't come whole is no reason to stay."""

STALLED_S = 5.0
"""Behind the least rate for so long, a client that reads may be cut off for another connection."""

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


def has_doubtful_length(version: str, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether another reader of this request may see its end elsewhere: RFC 9112, section 6.1.

    Args:
        version: of HTTP.
        headers: of the request, their names in lower case.
    """
    names = {name for name, _ in headers}
    return b"transfer-encoding" in names and (b"content-length" in names or version == "1.0")


class Connection(H11Protocol):
    """One client.

    Args:
        timeouts: how long to wait for a request's headers, and for a client that has stopped reading.
        config: uvicorn's configuration, which holds the application of this socket.
        server_state: what all connections share.
        reach: from where its socket can be reached; every request's `scope["state"]["reach"]`.
        min_rate: bytes a second that a client must send and take on average while it is waited for.
        malformed: the journal, for requests that can't be read.
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
        self._begun = 0.0
        self.last_active = 0.0
        """When it came, or its last bytes did."""
        self.peer = ""
        """Whose it is, see `peer_of`."""

    @property
    def is_unfinished(self) -> bool:
        """Whether a request is being waited for that hasn't come whole, or has not begun to come."""
        if self._is_refused or self.flow.read_paused:
            return False
        is_body_missing = self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete
        return self._header_deadline is not None or is_body_missing

    @property
    def is_silent(self) -> bool:
        """Whether its request comes at less than the least rate, or not at all."""
        return self.is_unfinished and self._sending.behind_s >= SILENT_S

    @property
    def is_new(self) -> bool:
        """Whether its request has not had the time to be silent."""
        return self.is_unfinished and self.loop.time() - self._begun < SILENT_S

    @property
    def spare_rank(self) -> int | None:
        """How much is lost by closing it, the least first; None where it is work."""
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
        """Whether its descriptor is free at the loop's next turn: it waits for no client to take bytes."""
        return self.transport.is_closing() and not self.transport.get_write_buffer_size()

    def give_way(self) -> bool:
        """Close in favour of another connection; whether it could."""
        if self.is_closed or self.has_unread_bytes():
            return False
        self._cut_off()
        return True

    def _cut_off(self) -> None:
        """Close at once; otherwise the kernel would go on sending what it holds (socket(7), SO_LINGER)."""
        if self._reading.is_running:
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

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
        """Whether the kernel holds something from the client that we haven't seen yet and would answer."""
        if self.is_watching or self.transport.is_closing():
            return False  # the stream of a watching client ends with the daemon: no request comes after it
        connection = socket.socket(fileno=self.transport.get_extra_info("socket").fileno())
        try:
            return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False
        finally:
            connection.detach()

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
        self.peer = self.app_state["peer"] = peer_of(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        transport.set_write_buffer_limits(0)
        cast(Any, transport).max_size = RECEIVE_BYTES
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """The deadline runs from the first byte of a request to the end of its headers."""
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
        """A body with two lengths is a way to hide a request in it: nothing that follows is read."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and has_doubtful_length(self.scope["http_version"], self.headers):
            self.headers.append(CLOSE_HEADER)

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
        self._begun = self.last_active = self.loop.time()
        self._sending = TransferRate(self._min_rate, self.loop.time)
        self._sending.start()
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
        """The client reads too slowly; from here it must take bytes at the least rate."""
        super().pause_writing()
        self._unread_before = self._unread_bytes()
        self._reading.start()
        self._expect_reading()

    def _unread_bytes(self) -> int:
        """Bytes written that the client's machine hasn't taken: ours and the kernel's (tcp(7), SIOCOUTQ)."""
        fd = self.transport.get_extra_info("socket").fileno()
        kernel = int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return self.transport.get_write_buffer_size() + kernel

    def _expect_reading(self) -> None:
        """Look again when a client that takes nothing more would be late."""
        left_s = self._timeouts.client - self._reading.behind_s
        self._reading_deadline = self.loop.call_later(left_s, self._reading_is_due)

    def _count_reading(self) -> None:
        """Note what the client has taken; nothing has been written since it was last looked at."""
        unread = self._unread_bytes()
        self._reading.count(max(0, self._unread_before - unread))
        self._unread_before = unread

    def _reading_is_due(self) -> None:
        """Cut the client off that is `timeouts.client` behind the least rate."""
        self._count_reading()
        if self._reading.behind_s < self._timeouts.client:
            self._expect_reading()
        else:
            self._reading_deadline = None
            self._cut_off()

    def resume_writing(self) -> None:
        """The client reads on."""
        if self._reading_deadline is not None:
            self._reading_deadline.cancel()
            self._reading_deadline = None
            self._reading.count(self._unread_before)
            self._reading.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that aren't HTTP, in OpenAI's error form."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._malformed.say(logging.INFO, "refused %s: not an HTTP request: %s", self.peer, error or msg)
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
