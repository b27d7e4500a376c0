"""The worker process: deaths, hangs, cancellation, the queue. Each costs only the requests in flight."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from stepaudiod.edits import Edit
from stepaudiod.requests import Audio, EditRequest, Recording, Segment, Word
from stepaudiod.worker.protocol import (
    LENGTHS,
    EngineOrder,
    Piece,
    StartJob,
    ToFront,
    pack,
    read_frame,
    receive_frame,
)
from tests.activation import DEADLINE_S, DaemonProcess, pids_of_group
from tests.conftest import StartDaemon

SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello there.", "response_format": "wav"}
LONG = SAY | {"input": "This is one more sentence of a long text. " * 2000}


def test_a_worker_that_is_killed_costs_only_the_request_in_flight(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        worker = daemon.worker_pid()
        with client.stream("POST", "/v1/audio/speech", json=LONG) as response:
            chunks = response.iter_raw()
            next(chunks)
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(httpx.RemoteProtocolError):
                list(chunks)
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        assert daemon.worker_pid() != worker


def test_a_request_is_tried_again_when_its_worker_dies_before_the_first_chunk(daemon: DaemonProcess) -> None:
    with ThreadPoolExecutor() as pool, daemon.client() as client:
        response = pool.submit(client.post, "/v1/audio/speech", json=SAY)
        daemon.notify.wait_for("STATUS=speaking to 1 · loading hibari")
        (worker,) = pids_of_group(daemon.process.pid)
        os.kill(worker, signal.SIGKILL)
        assert response.result(DEADLINE_S).status_code == 200
        assert daemon.worker_pid() != worker


def test_a_second_worker_that_dies_gives_a_503_that_says_so(start_daemon: StartDaemon) -> None:
    # heartbeats every 25 ms: of each load, which takes a third of a second, the front sees several
    daemon = start_daemon({"timeouts.stall": 0.5, "timeouts.load": 0.001, "timeouts.heartbeat": 0.1})
    with daemon.client() as client:
        answer = client.post("/v1/audio/speech", json=SAY)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"]["code"] == "worker_lost"
        assert "tried twice" in answer.json()["error"]["message"]


def test_a_worker_that_hangs_is_replaced(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.heartbeat": 1})
    with daemon.client() as client:
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        worker = daemon.worker_pid()
        os.kill(worker, signal.SIGSTOP)
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        assert daemon.worker_pid() != worker
        assert "no sign of life" in daemon.log()


def test_the_worker_dies_with_the_front(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
    worker = os.pidfd_open(daemon.worker_pid())
    daemon.process.kill()
    gone, _, _ = select.select([worker], [], [], DEADLINE_S)
    os.close(worker)
    assert gone, "the worker is still there"


def test_beyond_the_queue_comes_429_with_whole_seconds(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"limits.concurrency": 1, "limits.max_queue": 1})
    with daemon.client() as client, contextlib.ExitStack() as clients:

        def begin() -> None:
            clients.enter_context(read_all(daemon, LONG))

        begin()
        daemon.notify.wait_for("STATUS=speaking to 1")
        begin()
        daemon.notify.wait_for("STATUS=speaking to 1, 1 waiting")
        refused = client.post("/v1/audio/speech", json=SAY)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        error = refused.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "rate_limit_error"
        clients.close()
        daemon.notify.wait_for("STATUS=asleep in", count=2)
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200


def speech_request(body: Mapping[str, object]) -> bytes:
    payload = json.dumps(body).encode()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


@contextlib.contextmanager
def read_all(daemon: DaemonProcess, body: Mapping[str, object]) -> Iterator[socket.socket]:
    """A client that reads its response until the end of the test."""
    with socket.create_connection(daemon.address, timeout=DEADLINE_S) as connection:
        connection.sendall(speech_request(body))

        def read() -> None:
            with contextlib.suppress(OSError):
                while connection.recv(1 << 20):
                    pass

        reading = threading.Thread(target=read)
        reading.start()
        try:
            yield connection
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            reading.join(DEADLINE_S)


def test_a_client_that_leaves_stops_its_work(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        with client.stream("POST", "/v1/audio/speech", json=LONG) as response:
            next(response.iter_raw())
        daemon.notify.wait_for("STATUS=asleep in", count=2)
        status = client.get("/api/v1/models/status").json()["daemon"]
        assert status["requests"]["cancelled"] == 1
        assert status["active"] == 0


def test_a_client_that_leaves_while_it_waits_gives_up_its_place(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"limits.concurrency": 1, "limits.max_queue": 1})
    with read_all(daemon, LONG):
        daemon.notify.wait_for("STATUS=speaking to 1")
        with socket.create_connection(daemon.address) as second:
            second.sendall(speech_request(SAY))
            daemon.notify.wait_for("STATUS=speaking to 1, 1 waiting")
        daemon.notify.wait_for("STATUS=speaking to 1 · hibari")
    daemon.notify.wait_for("STATUS=asleep in", count=2)


def test_a_slow_reader_holds_up_nobody_else(daemon: DaemonProcess) -> None:
    with socket.create_connection(daemon.address) as slow, daemon.client() as client:
        slow.sendall(speech_request(LONG | {"response_format": "pcm"}))
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        for _ in range(5):
            assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        status = client.get("/api/v1/models/status").json()["daemon"]
        assert status["active"] == 1


def test_a_client_that_does_not_read_holds_no_turn_and_may_read_on(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"limits.concurrency": 1})
    long = SAY | {"input": "This is one more sentence of a long text. " * 25, "response_format": "pcm"}
    with daemon.client() as client, client.stream("POST", "/v1/audio/speech", json=long) as paused:
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        assert client.get("/api/v1/models/status").json()["daemon"]["active"] == 1
        assert len(paused.read()) > 2_000_000


def test_too_many_clients_that_do_not_read_cost_one_of_them_its_response(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"limits.concurrency": 1, "limits.max_paused": 2})
    with daemon.client() as client, contextlib.ExitStack() as clients:
        paused = [
            clients.enter_context(client.stream("POST", "/v1/audio/speech", json=LONG)) for _ in range(3)
        ]
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            paused[0].read()
    assert "clients do not read" in daemon.log()


def test_a_client_that_stops_reading_is_let_go(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.client": 0.5, "idle_timeout": 0.5})
    with socket.create_connection(daemon.address) as stalled:
        stalled.sendall(speech_request(LONG | {"response_format": "pcm"}))
        assert daemon.wait() == 0


@pytest.mark.slow
def test_a_client_that_reads_slowly_and_steadily_is_not_let_go(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.client": 0.3})
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        reader.connect(daemon.address)
        # one sentence is far more than the buffers between us hold
        reader.sendall(speech_request(SAY | {"input": "Hello, " * 100, "speed": 0.25}))
        size = 0
        while part := reader.recv(65536):
            size += len(part)
            time.sleep(0.02)  # a player that reads as it plays
            if part.endswith(b"0\r\n\r\n"):
                break
    assert part
    assert size > 1_000_000


@pytest.mark.slow
def test_short_requests_are_not_held_up_by_a_long_one(daemon: DaemonProcess) -> None:
    finished: list[str] = []

    def say(body: Mapping[str, object], name: str) -> None:
        with daemon.client() as client:
            client.post("/v1/audio/speech", json=body)
            finished.append(name)

    with daemon.client() as client:
        client.post("/v1/audio/speech", json=SAY)
        text = {"input": "This is one more sentence of a text. " * 200}
        long = threading.Thread(target=say, args=(SAY | text, "long"))
        long.start()
        daemon.notify.wait_for("STATUS=speaking to 1", count=2)
        say(SAY, "short")
        long.join(DEADLINE_S)
    assert finished == ["short", "long"]


def test_unloading_ends_the_worker_and_says_whether_there_was_one(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        path = "/api/v1/models/hibari/unload"
        assert client.post(path).json() == {"model": "hibari", "unloaded": False}
        client.post("/v1/audio/speech", json=SAY)
        worker = daemon.worker_pid()
        assert client.post(path).json() == {"model": "hibari", "unloaded": True}
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200


@pytest.mark.slow
def test_a_request_that_races_an_unload_leaves_one_worker(daemon: DaemonProcess) -> None:
    with daemon.client() as client, ThreadPoolExecutor(2) as pool:
        client.post("/v1/audio/speech", json=SAY)
        for _ in range(6):
            unloading = pool.submit(client.post, "/api/v1/models/hibari/unload")
            speaking = pool.submit(client.post, "/v1/audio/speech", json=SAY)
            assert unloading.result(DEADLINE_S).status_code in (200, 429)
            assert speaking.result(DEADLINE_S).status_code in (200, 503)
        client.post("/v1/audio/speech", json=SAY)
        assert list(pids_of_group(daemon.process.pid)) == [daemon.worker_pid()]


def test_unloading_never_cuts_off_a_request(daemon: DaemonProcess) -> None:
    with daemon.client() as client, daemon.client() as other:
        with other.stream("POST", "/v1/audio/speech", json=LONG) as response:
            chunks = response.iter_raw()  # kept: a generator that is dropped closes the connection
            next(chunks)
            refused = client.post("/api/v1/models/hibari/unload")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "busy"


@pytest.mark.slow
def test_a_slow_reader_is_not_taken_for_a_worker_that_hangs(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.heartbeat": 1, "timeouts.stall": 1})
    with daemon.client() as client, client.stream("POST", "/v1/audio/speech", json=LONG) as response:
        chunks = response.iter_raw()
        next(chunks)
        worker = os.pidfd_open(daemon.worker_pid())
        ended, _, _ = select.select([worker], [], [], 4)  # what must not happen within four stalls
        os.close(worker)
        assert not ended
        assert next(chunks)


def test_a_request_reaches_the_worker_as_it_was_sent() -> None:
    work = EditRequest(Recording("a.wav"), Edit("speed", "faster", iterations=2), seed=1)
    order = StartJob(
        3, EngineOrder("studio", "module:name", {"paths": ["a"]}, ("b",)), work, "wav", {"max": 1.5}
    )
    front, worker = socket.socketpair()
    with front, worker, worker.makefile("rb") as file:
        front.sendall(pack(order))
        assert receive_frame(file) == order


def test_fields_cross_the_border_by_name_and_unknown_ones_are_ignored() -> None:
    """During an upgrade a front may start a worker whose fields have another order, and one more."""
    segment = Segment("Hello.", 0.5, 1.5, (Word("Hello.", 0.5, 1.5),), (1, 2))
    assert asyncio.run(sent(pack(Piece(7, segment)))) == Piece(7, segment)
    header = {
        "$type": "Piece",
        "new": 1,
        "result": {"duration_s": 0.5, "$type": "Audio", "data": None},
        "id": 7,
    }
    encoded = json.dumps(header).encode()
    frame = LENGTHS.pack(len(encoded), 3) + encoded + b"abc"
    assert asyncio.run(sent(frame)) == Piece(7, Audio(b"abc", 0.5))


async def sent(data: bytes) -> ToFront:
    """The frame that the front reads."""
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    return await read_frame(reader)


def test_a_worker_ends_at_a_frame_that_it_cannot_read() -> None:
    """It must not live on without its orders: its requests would wait for their deadline."""
    header = json.dumps({"$type": "StartJob", "id": 1}).encode()
    front, worker = socket.socketpair()
    command = [sys.executable, "-P", "-m", "stepaudiod.worker.main", "--fd", str(worker.fileno())]
    command += ["--parent", str(os.getpid()), "--cache-dir", "unused", "--threads", "1", "--beat", "1"]
    with front, worker:
        process = subprocess.Popen(command, pass_fds=[worker.fileno()], stderr=subprocess.DEVNULL)
        worker.close()
        front.sendall(LENGTHS.pack(len(header), 0) + header)
        assert process.wait(DEADLINE_S) == 1
