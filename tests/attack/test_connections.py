"""More connections than file descriptors, and connections that send nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepaudiod.voice_library import VoiceLibrary
from tests.activation import DEADLINE_S, DaemonProcess
from tests.attack.conftest import Tally
from tests.conftest import StartDaemon

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BEGINNINGS = {
    "silent": b"",
    "half a header": b"GET /healthz HT",
    "half a body": b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{",
    "kept alive": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
}
DESCRIPTORS = 256


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    """Raise the attacker's own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def answer_to(daemon: DaemonProcess, data: bytes) -> tuple[bytes, float]:
    """The response on a new connection, and its time in seconds."""
    started = time.monotonic()
    with socket.create_connection(daemon.address, DEADLINE_S) as client:
        client.sendall(data)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts), time.monotonic() - started


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_more_connections_than_descriptors(
    start_daemon: StartDaemon, tally: Tally, scale: int, kind: str
) -> None:
    daemon = start_daemon()
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    tried = min(4000, 400 * scale)
    with contextlib.ExitStack() as clients:
        for _ in range(tried):
            client = clients.enter_context(socket.create_connection(daemon.address, DEADLINE_S))
            with contextlib.suppress(OSError):
                client.sendall(BEGINNINGS[kind])
        answers = [answer_to(daemon, HEALTH) for _ in range(5)]
        open_descriptors = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
    held = all(b"200 OK" in answer for answer, _ in answers) and "Traceback" not in daemon.log()
    name = f"connections over the limit, {kind}; slowest healthz {max(s for _, s in answers):.2f} s"
    tally(name, tried, tried if held else 0)
    assert held, daemon.log()[-3000:]
    assert open_descriptors < DESCRIPTORS
    assert daemon.log().count("limits.max_connections") == 1


def test_a_long_answer_that_is_not_read_leaves_room(
    start_daemon: StartDaemon, tally: Tally, tmp_path: Path
) -> None:
    """The front has closed the connection, but keeps it until the client has read the rest."""
    (tmp_path / "voice.wav").write_bytes(b"RIFF")
    library = VoiceLibrary(tmp_path / "voices")
    for number in range(40):
        library.create(f"Voice {number}", tmp_path / "voice.wav", "word " * 20_000, "mine")
    late = {"timeouts.client": 600, "timeouts.header": 600}
    daemon = start_daemon({"data_dir": tmp_path, "limits.max_connections": 8, **late})
    with contextlib.ExitStack() as clients:
        unread = clients.enter_context(socket.create_connection(daemon.address, DEADLINE_S))
        unread.sendall(HEALTH.replace(b"/healthz", b"/v1/audio/voices"))
        assert unread.recv(1)
        for _ in range(20):
            clients.enter_context(socket.create_connection(daemon.address, DEADLINE_S)).sendall(b"GET /")
        answers = [answer_to(daemon, HEALTH) for _ in range(5)]
    held = sum(b"200 OK" in answer for answer, _ in answers)
    tally("connections over the limit, one with an answer that is not read", len(answers), held)
    assert held == len(answers), daemon.log()[-3000:]


def test_clients_that_connect_and_keep_silent_do_not_hold_it_awake(
    start_daemon: StartDaemon, tally: Tally
) -> None:
    daemon = start_daemon({"idle_timeout": 0.2, "timeouts.header": 1})
    stop = threading.Event()
    opened: list[socket.socket] = []

    def connect() -> None:
        while not stop.is_set():
            opened.append(socket.create_connection(daemon.address, DEADLINE_S))
            with contextlib.suppress(OSError):
                opened[-1].sendall(list(BEGINNINGS.values())[len(opened) % 3])
            stop.wait(0.4)

    attack = threading.Thread(target=connect)
    attack.start()
    try:
        code = daemon.wait()
    finally:
        stop.set()
        attack.join(DEADLINE_S)
        for client in opened:
            client.close()
    tally("a silent connection every 0.4 s against the idle exit", len(opened), len(opened))
    assert code == 0
    assert len(opened) > 2


def test_many_watchers_cost_little(start_daemon: StartDaemon, tally: Tally) -> None:
    daemon = start_daemon({"idle_timeout": 240})
    watch = b"GET /page/watch HTTP/1.1\r\nHost: localhost\r\n\r\n"
    tried = 500
    with contextlib.ExitStack() as clients:
        for _ in range(tried):
            client = clients.enter_context(socket.create_connection(daemon.address, DEADLINE_S))
            client.sendall(watch)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        before, started = cpu_s(daemon), time.monotonic()
        daemon.notify.wait_for("STATUS=asleep in 220 s")
        share = (cpu_s(daemon) - before) / (time.monotonic() - started)
        assert daemon.shared_client.get("/healthz").status_code == 200
    tally(f"watchers of the page; {share:.1%} of a core", tried, tried if share < 0.05 else 0)
    assert share < 0.05


def cpu_s(daemon: DaemonProcess) -> float:
    """CPU seconds of the front: proc(5)."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
