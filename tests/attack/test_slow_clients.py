"""Clients that take or send too slowly, so that others wait for their place."""

from __future__ import annotations

import contextlib
import json
import socket

from tests.activation import DEADLINE_S, DaemonProcess
from tests.attack.conftest import Tally
from tests.conftest import StartDaemon

SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello there.", "response_format": "wav"}
LONG = SAY | {"input": "This is one more sentence of a long text. " * 2000, "response_format": "pcm"}


def request(path: str, body: bytes, length: int | None = None, kind: str = "application/json") -> bytes:
    """A POST whose body may be shorter than it says."""
    size = len(body) if length is None else length
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    )
    return head.encode() + body


def connect(daemon: DaemonProcess) -> socket.socket:
    """A client with a small receive buffer, so that little is on its way to it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(DEADLINE_S)
    client.connect(daemon.address)
    return client


def test_clients_that_do_not_read_hold_up_none(start_daemon: StartDaemon, tally: Tally, scale: int) -> None:
    daemon = start_daemon()
    tried = min(100, 12 * scale)
    with contextlib.ExitStack() as clients:
        for _ in range(tried):
            client = clients.enter_context(connect(daemon))
            client.sendall(request("/v1/audio/speech", json.dumps(LONG).encode()))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        answer = daemon.shared_client.post("/v1/audio/speech", json=SAY)
    held = tried if answer.status_code == 200 else 0
    tally("clients that do not read their response", tried, held)
    assert held == tried
