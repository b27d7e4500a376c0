"""Request smuggling, and log lines that a client causes."""

from __future__ import annotations

import socket

import pytest

from tests.activation import DEADLINE_S, DaemonProcess
from tests.attack.conftest import Tally
from tests.conftest import StartDaemon

HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BODY = b"2\r\n{}\r\n0\r\n\r\n"
START = b"POST /v1/audio/speech HTTP/%s\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LENGTHS = {
    "both lengths": b"1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 12",
    "both, the other way round": b"1.1\r\nContent-Length: 12\r\nTransfer-Encoding: chunked",
    "both, in capitals": b"1.1\r\nCONTENT-LENGTH: 3\r\nTRANSFER-ENCODING: CHUNKED",
    "chunks in HTTP/1.0": b"1.0\r\nTransfer-Encoding: chunked",
    "two lengths": b"1.1\r\nContent-Length: 12\r\nContent-Length: 13",
    "an unknown coding": b"1.1\r\nTransfer-Encoding: xchunked\r\nContent-Length: 12",
    "a coding twice": b"1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "a length with a sign": b"1.1\r\nContent-Length: +12",
    "a space before the colon": b"1.1\r\nContent-Length : 12",
}


def exchange(daemon: DaemonProcess, data: bytes) -> bytes:
    """Everything received until the daemon closes."""
    with socket.create_connection(daemon.address, DEADLINE_S) as client:
        client.sendall(data)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    return start_daemon({"timeouts.keep_alive": 600})


def test_a_body_of_doubtful_length_hides_no_second_request(daemon: DaemonProcess, tally: Tally) -> None:
    held = 0
    for headers in LENGTHS.values():
        version, _, rest = headers.partition(b"\r\n")
        answer = exchange(daemon, START % version + rest + b"\r\n\r\n" + BODY + HIDDEN)
        is_refused = answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501"))
        held += answer.count(b"HTTP/1.1 ") == 1 and is_refused
        assert b"200 OK" not in answer, headers
    tally("requests that hide another one", len(LENGTHS), held)
    assert held == len(LENGTHS)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01 no HTTP at all\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nConnection: upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n",
    ],
    ids=["no HTTP", "a foreign host", "an upgrade"],
)
def test_a_client_that_is_refused_writes_few_lines(
    daemon: DaemonProcess, tally: Tally, scale: int, request_bytes: bytes
) -> None:
    before = len(daemon.log().splitlines())
    tried = 200 * scale
    for _ in range(tried):
        exchange(daemon, request_bytes)
    lines = daemon.log().splitlines()[before:]
    tally("lines in the journal by refused requests", tried, tried if len(lines) <= 12 else 0)
    assert len(lines) <= 12, lines[:20]
    assert all("127.0.0.1" in line for line in lines if "refused" in line)
