"""Clients that read or send too slowly, while others wait for their slot."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

from tests.activation import DEADLINE_S, DaemonProcess
from tests.attack.conftest import Tally
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav

SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello there.", "response_format": "wav"}
LONG = SAY | {"input": "This is one more sentence of a long text. " * 2000, "response_format": "pcm"}
FORM = "multipart/form-data; boundary=edge"


def request(path: str, body: bytes, length: int | None = None, kind: str = "application/json") -> bytes:
    """A POST whose body may be shorter than its Content-Length."""
    size = len(body) if length is None else length
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    )
    return head.encode() + body


def connect(daemon: DaemonProcess) -> socket.socket:
    """A client with a small receive buffer, so that few bytes are in flight."""
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


def test_a_trickle_is_cut_off(start_daemon: StartDaemon, tally: Tally) -> None:
    daemon = start_daemon({"timeouts.client": 1})
    with connect(daemon) as client:
        client.sendall(request("/v1/audio/speech", json.dumps(LONG).encode()))
        size = 0
        with contextlib.suppress(ConnectionError):
            while part := client.recv(200):
                size += len(part)
                if size > 400_000:
                    break
                time.sleep(0.1)  # 2,000 bytes a second
    tally("a response taken at 2 KB/s", 1, int(size <= 400_000))
    assert size <= 400_000


def half_form() -> bytes:
    """The beginning of a form with a recording."""
    return (
        b'--edge\r\nContent-Disposition: form-data; name="mode"\r\n\r\ndenoise\r\n'
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
    )


def test_silent_uploads_leave_a_place(start_daemon: StartDaemon, tally: Tally) -> None:
    daemon = start_daemon({"engine": "auto"})
    tried = 2 * (64 + 8)
    with contextlib.ExitStack() as clients:
        for _ in range(tried):
            client = clients.enter_context(connect(daemon))
            client.sendall(request("/v1/audio/edits", half_form(), 1_000_000, FORM))
        answer = daemon.shared_client.post(
            "/v1/audio/edits", data={"mode": "denoise"}, files={"file": ("a.wav", wav(hum()))}
        )
    held = tried if answer.status_code == 200 else 0
    tally("uploads that stop in the middle", tried, held)
    assert held == tried, answer.text


def test_half_sent_bodies_stay_small(start_daemon: StartDaemon, tally: Tally) -> None:
    """As JSON with and without a recording, and as a form."""
    daemon = start_daemon()
    tried = 300
    large = b"a" * 1_000_000
    bodies = (
        ("/v1/audio/speech", "application/json", b'{"model": "tts-1", "input": "' + large),
        ("/v1/audio/speech", "application/json", b'{"step_audio": {"input_audio_base64": "' + large),
        ("/v1/audio/edits", FORM, half_form() + large),
    )
    with contextlib.ExitStack() as clients:
        for index in range(tried):
            path, kind, body = bodies[index % len(bodies)]
            client = clients.enter_context(socket.create_connection(daemon.address, DEADLINE_S))
            with contextlib.suppress(ConnectionError):
                client.sendall(request(path, body, 1_040_000, kind))
        assert daemon.shared_client.get("/healthz").status_code == 200
        peak = next(
            int(line.split()[1]) / 1024
            for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
    tally(f"half-sent bodies of 1 MB; the front has {peak:.0f} MB", tried, tried if peak < 150 else 0)
    assert peak < 150
