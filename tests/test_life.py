"""The daemon's life: what wakes it, what keeps it awake, how it exits without losing a connection."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.activation import DEADLINE_S, Activator, DaemonProcess
from tests.conftest import StartDaemon

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello there.", "response_format": "wav"}

LONG = SAY | {"input": "One more sentence. " * 100}
ENDLESS = SAY | {"input": "One more sentence. " * 5000}


def receive_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_exits_when_idle(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 0.2})
    assert daemon.wait() == 0
    assert "STOPPING=1" in daemon.notify.messages


def test_the_exit_ends_the_worker(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 0.5})
    with daemon.client() as client:
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        worker = daemon.worker_pid()
    assert daemon.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_silent_connection_does_not_prevent_the_exit(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": "never"})
    daemon.notify.wait_for("STATUS=awake for good")
    with daemon.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}


def test_health_checks_do_not_keep_it_awake(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 0.5})
    checked = 0
    while daemon.process.poll() is None:
        with socket.create_connection(daemon.address, timeout=1) as connection:
            connection.sendall(HEALTH)
            with contextlib.suppress(TimeoutError):  # the last one waits for the next instance
                checked += b"200 OK" in receive_all(connection)
    assert daemon.wait() == 0
    assert checked > 3


def test_a_quiet_keep_alive_connection_does_not_keep_it_awake(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 0.5, "timeouts.keep_alive": 60})
    with daemon.client() as client:
        client.get("/healthz")
        assert daemon.wait() == 0


def test_work_keeps_it_awake_and_restarts_the_clock(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 1})
    with daemon.client() as client:
        for _ in range(3):
            with client.stream("POST", "/v1/audio/speech", json=SAY) as response:
                assert response.read()[:4] == b"RIFF"
            before = client.get("/api/v1/models/status").json()["hibari"]
            assert before["time_until_unload"] > 0.5
    assert daemon.wait() == 0


def test_a_slow_client_delays_the_exit(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 0.2})
    with socket.create_connection(daemon.address, timeout=DEADLINE_S) as connection:
        # the idle period passes ten times over while the client has yet to say a word
        connection.settimeout(2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert daemon.process.poll() is None
        connection.settimeout(DEADLINE_S)
        connection.sendall(HEALTH)
        assert b"200 OK" in receive_all(connection)
    assert daemon.wait() == 0


def test_a_silent_client_is_disconnected(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 0.2, "timeouts.header": 0.5})
    with socket.create_connection(daemon.address, timeout=DEADLINE_S) as connection:
        assert receive_all(connection) == b""
    assert daemon.wait() == 0


def test_a_connection_after_the_exit_is_served_by_the_next_instance(start_daemon: StartDaemon) -> None:
    first = start_daemon({"idle_timeout": 0.1})
    assert first.wait() == 0
    with socket.create_connection(first.address, timeout=DEADLINE_S) as connection:
        connection.sendall(HEALTH)
        start_daemon({"idle_timeout": 0.1}, listeners=first.listeners)
        assert b"200 OK" in receive_all(connection)


def test_no_connection_is_lost_around_idle_exits(activator: object) -> None:
    systemd: Activator = activator({"idle_timeout": 0.1})  # type: ignore[operator]
    luck = random.Random(1)
    plans = [(luck.uniform(0, 8), luck.choice([0, 0, 0, luck.uniform(0, 0.4)])) for _ in range(120)]
    started = time.monotonic()

    def call(plan: tuple[float, float]) -> bool:
        at, dawdle = plan
        time.sleep(max(0, at - (time.monotonic() - started)))  # a random instant is the point of this test
        with socket.create_connection(systemd.address, timeout=DEADLINE_S) as connection:
            time.sleep(dawdle)
            connection.sendall(HEALTH)
            return b"200 OK" in receive_all(connection)

    with ThreadPoolExecutor(len(plans)) as clients:
        answered = list(clients.map(call, plans))
    assert all(answered)
    assert systemd.starts > 3
    assert set(systemd.exit_codes) <= {0}


def test_a_stop_finishes_requests_in_flight(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with (
        daemon.client() as client,
        client.stream(
            "POST", "/v1/audio/speech", json=SAY | {"input": "One more sentence. " * 100}
        ) as response,
    ):
        chunks = response.iter_bytes()
        size = len(next(chunks))
        daemon.process.send_signal(signal.SIGTERM)
        size += sum(map(len, chunks))
    assert size > 24000 * 2 * 60
    assert daemon.wait() == 0
    assert "STOPPING=1" in daemon.notify.messages
    daemon.notify.wait_for("EXTEND_TIMEOUT_USEC=")


def test_a_stop_serves_a_client_that_has_not_sent_its_request(daemon: DaemonProcess) -> None:
    with socket.create_connection(daemon.address, timeout=DEADLINE_S) as connection:
        with daemon.client() as client:
            client.get("/healthz")  # by now the first connection has been accepted too
        daemon.process.send_signal(signal.SIGTERM)
        daemon.notify.wait_for("STOPPING=1")
        connection.sendall(HEALTH)
        assert b"200 OK" in receive_all(connection)
    assert daemon.wait() == 0


def test_what_does_not_end_in_time_gets_an_error(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.drain": 0, "timeouts.client": 60})
    with daemon.client() as client:
        outcome: list[object] = []

        def say() -> None:
            try:
                outcome.append(client.post("/v1/audio/speech", json=ENDLESS).status_code)
            except httpx.RemoteProtocolError:
                outcome.append("cut off")

        speaking = threading.Thread(target=say)
        speaking.start()
        daemon.notify.wait_for("STATUS=speaking to 1")
        daemon.process.send_signal(signal.SIGTERM)
        speaking.join(DEADLINE_S)
    assert daemon.wait() == 0
    assert outcome[0] in ("cut off", 503)


def test_the_watchdog_is_notified_while_the_loop_runs(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(environ={"WATCHDOG_USEC": "500000"})
    daemon.notify.wait_for("WATCHDOG=1", count=3)


def test_status_reads_like_a_sentence(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 240})
    daemon.notify.wait_for("STATUS=asleep in 240 s · hibari · 0 requests served")
    with daemon.client() as client:
        client.post("/v1/audio/speech", json=SAY)
    daemon.notify.wait_for("STATUS=speaking to 1 · loading hibari")
    daemon.notify.wait_for("STATUS=asleep in 240 s · hibari · 1 request served")
