"""An idle worker leaves the GPU and is restored for work; whatever fails costs its requests only time.

The daemon, its worker and the helper are real; the card is that of `tests.gpu`.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from stepaudiod.counters import Counters
from stepaudiod.engines.registry import HIBARI
from stepaudiod.requests import SpeechRequest
from stepaudiod.worker import doze
from stepaudiod.worker.process import WorkerOptions, WorkerProcess
from tests.activation import DEADLINE_S, DaemonProcess, pids_of_group
from tests.conftest import StartDaemon
from tests.gpu import Gpu

SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello there.", "response_format": "wav"}
ROUND = [f"cuCheckpointProcess{step}" for step in ("Lock", "Checkpoint", "Restore", "Unlock")]


@pytest.fixture
def gpu(tmp_path: Path) -> Gpu:
    return Gpu(tmp_path / "gpu")


Start = Callable[..., DaemonProcess]


@pytest.fixture
def start(start_daemon: StartDaemon, gpu: Gpu) -> Start:
    """Start a daemon whose model is on the GPU, and wait until it dozes."""

    def start(settings: dict[str, object] | None = None) -> DaemonProcess:
        daemon = start_daemon({"step_audio.doze_after": 0.2} | (settings or {}), environ=gpu.environ)
        assert say(daemon).status_code == 200
        daemon.notify.wait_for("STATUS=dozing, asleep in")
        return daemon

    return start


def say(daemon: DaemonProcess) -> httpx.Response:
    with daemon.client() as client:
        return client.post("/v1/audio/speech", json=SAY)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what nothing notifies of."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_dozes_when_idle_and_work_restores_it(start: Start, gpu: Gpu) -> None:
    daemon = start({"timeouts.heartbeat": 0.5})
    worker = daemon.worker_pid()
    with daemon.client() as client:
        status = client.get("/api/v1/models/status").json()
        assert status["daemon"]["worker_state"] == "dozing"
        assert status["hibari"]["loaded"]
        assert status["hibari"]["gpu_memory_reserved_gb"] == 0
        assert client.get("/healthz").headers["X-StepAudio-Worker"] == "dozing"
        assert client.get("/readyz").json()["worker"] == "dozing"
        assert "stepaudiod_worker_dozing 1.0" in client.get("/metrics").text
    gone = os.pidfd_open(worker)
    assert select.select([gone], [], [], 1.0)[0] == []  # twice the time after which a silent worker hangs
    os.close(gone)
    assert say(daemon).status_code == 200
    daemon.notify.wait_for("STATUS=dozing, asleep in", count=2)
    assert say(daemon).status_code == 200
    assert daemon.worker_pid() == worker
    assert gpu.checkpoint_calls[:8] == ROUND * 2
    with daemon.client() as client:
        assert 'stepaudiod_restores_total{outcome="done"} 2.0' in client.get("/metrics").text
    assert f"worker {worker} is back on the GPU in" in daemon.log()


def test_requests_that_come_together_restore_it_once(start: Start, gpu: Gpu) -> None:
    daemon = start()
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(say, [daemon] * 4))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert gpu.checkpoint_calls[:4] == ROUND
    assert gpu.checkpoint_calls.count(ROUND[2]) == 1


def test_a_request_during_the_checkpoint_is_served_after_it(start_daemon: StartDaemon, gpu: Gpu) -> None:
    gpu.set("hold-cuCheckpointProcessCheckpoint")
    daemon = start_daemon({"step_audio.doze_after": 0.2}, environ=gpu.environ)
    assert say(daemon).status_code == 200
    worker = daemon.worker_pid()
    with daemon.client() as client, ThreadPoolExecutor() as pool:
        wait_until(lambda: client.get("/healthz").headers["X-StepAudio-Worker"] == "checkpointing")
        answer = pool.submit(say, daemon)
        daemon.notify.wait_for("STATUS=speaking to 1 · hibari is leaving the GPU")
        gpu.clear("hold-cuCheckpointProcessCheckpoint")
        assert answer.result(DEADLINE_S).status_code == 200
    assert daemon.worker_pid() == worker


def test_a_worker_that_cannot_be_restored_is_replaced(start: Start, gpu: Gpu) -> None:
    daemon = start()
    worker = daemon.worker_pid()
    gpu.set("fail-cuCheckpointProcessRestore", 2)
    assert say(daemon).status_code == 200
    assert daemon.worker_pid() != worker
    reason = "could not be restored (cuCheckpointProcessRestore: CUDA_ERROR_OUT_OF_MEMORY): ending it"
    assert f"worker {worker} {reason}" in daemon.log()


def test_without_room_requests_learn_what_holds_the_card(start: Start, gpu: Gpu) -> None:
    daemon = start({"timeouts.load": 0.3})
    worker = daemon.worker_pid()
    gpu.set("others", 135_000_000_000)
    refused = say(daemon)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    error = refused.json()["error"]
    assert error["code"] == "gpu_full"
    assert "needs 9.0 GB of the GPU NVIDIA H200, and 5.0 of 140.0 GB are free" in error["message"]
    assert "process 1" in error["message"]
    assert "holds 135.0 GB" in error["message"]
    gpu.clear("others")
    assert say(daemon).status_code == 200
    assert daemon.worker_pid() == worker


def test_a_request_waits_for_room_and_its_client_may_leave(start: Start, gpu: Gpu) -> None:
    daemon = start()
    gpu.set("others", 135_000_000_000)
    with daemon.client() as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post("/v1/audio/speech", json=SAY, timeout=0.3)
    daemon.notify.wait_for("STATUS=speaking to 1 · hibari waits for GPU memory")
    daemon.notify.wait_for("STATUS=dozing, asleep in", count=2)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(say, daemon)
        daemon.notify.wait_for("STATUS=speaking to 1 · hibari waits for GPU memory", count=2)
        gpu.clear("others")
        assert answer.result(DEADLINE_S).status_code == 200
    assert gpu.checkpoint_calls.count(ROUND[2]) == 1


def test_unloading_ends_a_dozing_worker(start: Start) -> None:
    daemon = start()
    worker = daemon.worker_pid()
    with daemon.client() as client:
        answer = client.post("/api/v1/models/hibari/unload")
    assert answer.json() == {"model": "hibari", "unloaded": True}
    assert list(pids_of_group(daemon.process.pid)) == []
    assert say(daemon).status_code == 200
    assert daemon.worker_pid() != worker


def test_the_idle_exit_ends_a_dozing_worker(start: Start) -> None:
    daemon = start({"idle_timeout": 1.5})
    worker = daemon.worker_pid()
    assert daemon.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_the_worker_dies_with_the_front_also_while_it_dozes(start: Start) -> None:
    daemon = start()
    children = [os.pidfd_open(pid) for pid in pids_of_group(daemon.process.pid)]
    assert len(children) == 2  # the worker and its helper
    daemon.process.kill()
    for child in children:
        assert select.select([child], [], [], DEADLINE_S)[0]
        os.close(child)


@pytest.mark.parametrize("victim", ["worker", "helper"])
def test_what_dies_during_a_doze_costs_no_request(start: Start, victim: str) -> None:
    daemon = start()
    worker = daemon.worker_pid()
    (helper,) = set(pids_of_group(daemon.process.pid)) - {worker}
    os.kill(worker if victim == "worker" else helper, signal.SIGKILL)
    assert say(daemon).status_code == 200
    assert daemon.worker_pid() != worker


@pytest.mark.parametrize("step", ["Lock", "Checkpoint"])
def test_a_checkpoint_that_fails_leaves_it_awake(start_daemon: StartDaemon, gpu: Gpu, step: str) -> None:
    gpu.set(f"fail-cuCheckpointProcess{step}", 2)
    daemon = start_daemon({"step_audio.doze_after": 0.2}, environ=gpu.environ)
    stays(daemon, f"doesn't doze: cuCheckpointProcess{step}: CUDA_ERROR_OUT_OF_MEMORY")
    assert gpu.checkpoint_calls.count(ROUND[0]) == doze.ATTEMPTS


def test_a_checkpoint_that_failed_once_is_taken_later(start_daemon: StartDaemon, gpu: Gpu) -> None:
    gpu.set("fail-cuCheckpointProcessCheckpoint", 2)
    daemon = start_daemon({"step_audio.doze_after": 0.2}, environ=gpu.environ)
    assert say(daemon).status_code == 200
    wait_until(lambda: gpu.checkpoint_calls.count(ROUND[1]) == 1)
    gpu.clear("fail-cuCheckpointProcessCheckpoint")
    daemon.notify.wait_for("STATUS=dozing, asleep in")
    assert say(daemon).status_code == 200


def test_with_an_older_driver_it_does_not_doze(start_daemon: StartDaemon, tmp_path: Path) -> None:
    gpu = Gpu(tmp_path / "gpu", "-DOLD")
    stays(start_daemon({"step_audio.doze_after": 0.2}, environ=gpu.environ), "the driver is older than 570")


def test_on_a_divided_card_it_does_not_doze(start_daemon: StartDaemon, gpu: Gpu) -> None:
    gpu.set("mig")
    stays(start_daemon({"step_audio.doze_after": 0.2}, environ=gpu.environ), "divided (MIG)")


def test_without_a_gpu_it_does_not_doze(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"step_audio.doze_after": 0.2, "log_level": "debug"})
    stays(daemon, "no engine in it uses a GPU")


def stays(daemon: DaemonProcess, reason: str) -> None:
    """The worker stays awake, the journal says why, once, and the next request is served by it."""
    assert say(daemon).status_code == 200
    worker = daemon.worker_pid()
    wait_until(lambda: "doesn't doze" in daemon.log())
    assert say(daemon).status_code == 200
    assert daemon.worker_pid() == worker
    assert daemon.log().count("doesn't doze") == 1
    assert reason in daemon.log()


# ---- what takes long with the daemon's own limits


@pytest.fixture
def dozing(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[WorkerProcess], Awaitable[None]]], None]:
    """Run with a worker that dozes."""
    for name, value in gpu.environ.items():
        monkeypatch.setenv(name, value)
    options = WorkerOptions(tmp_path, 1, "info", 10.0, 60.0, 60.0, doze_after_s=0.1)

    def run(body: Callable[[WorkerProcess], Awaitable[None]]) -> None:
        async def whole() -> None:
            worker, changed = await WorkerProcess.spawn(options, Counters()), asyncio.Event()
            worker.watch_changes(changed.set)
            reply = worker.work(HIBARI, SpeechRequest("Hello.", HIBARI.voices[0].id), "pcm", {})
            while await reply.next() is not None:
                pass
            while worker.doze.state is not doze.State.DOZING:
                changed.clear()
                await changed.wait()
            await body(worker)
            await worker.kill("is ended by a test")

        asyncio.run(asyncio.wait_for(whole(), DEADLINE_S))

    return run


def test_a_restore_that_hangs_ends_the_worker(
    dozing: Callable[..., None], gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doze, "RESTORE_S", 0.2)
    gpu.set("hold-cuCheckpointProcessRestore")

    async def body(worker: WorkerProcess) -> None:
        await worker.doze.wake()
        assert worker.is_lost

    dozing(body)


def test_memory_pressure_ends_a_dozing_worker(
    dozing: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressure = tmp_path / "pressure"
    pressure.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    monkeypatch.setattr(doze, "PRESSURE", pressure)
    monkeypatch.setattr(doze, "PRESSURE_S", 0.05)

    async def body(worker: WorkerProcess) -> None:
        lost = asyncio.Event()
        worker.watch_changes(lambda: lost.set() if worker.is_lost else None)
        assert not doze.is_short_of_memory()
        pressure.write_text("some avg10=31.50 avg60=4.20 avg300=0.00 total=9\n")
        await lost.wait()

    dozing(body)
