"""Operation: readiness, metrics, deadlines, and clients that disconnect."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon

SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello there.", "response_format": "wav"}
ENDLESS = SAY | {"input": "One more sentence. " * 5000}

BODY = json.dumps(ENDLESS)
RAW = (
    f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()
)

Metrics = dict[tuple[str, frozenset[tuple[str, str]]], float]


def metrics(client: httpx.Client) -> Metrics:
    """Every sample by its name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(found: Metrics, name: str, **labels: str) -> float:
    return found[f"stepaudiod_{name}", frozenset(labels.items())]


def wait_until(client: httpx.Client, condition: Callable[[Metrics], bool]) -> Metrics:
    """Scrape until the condition holds, as a monitor would."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition(found := metrics(client)):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_ready_says_with_what_and_wakes_nothing(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() | {"why": ""} == {
            "status": "ready",
            "reasons": [],
            "engine": "hibari",
            "why": "",
            "problems": [],
            "worker": "none",
        }
        assert client.get("/api/v1/models/status").json()["daemon"]["worker_pid"] is None


def test_not_ready_says_why(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon({"engine": "step-audio-editx", "data_dir": tmp_path})
    with daemon.client() as client:
        answer = client.get("/readyz")
        assert answer.status_code == 503
        (reason,) = answer.json()["reasons"]
        assert "step-audio-editx" in reason
        assert answer.json()["error"]["code"] == "not_ready"
        assert client.get("/healthz").status_code == 200


def test_not_ready_with_a_broken_configuration(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"threads": "many"})
    with daemon.client() as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "config_invalid")
        assert "threads" in answer.json()["error"]["message"]


def test_metrics_wake_nothing_and_do_not_keep_awake(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 0.5})
    with daemon.client() as client:
        found = metrics(client)
        assert value(found, "worker_running") == 0
        assert value(found, "requests_total", kind="speech", outcome="served") == 0
        assert found["process_resident_memory_bytes", frozenset()] > 1e7
    assert daemon.wait() == 0


def test_metrics_tell_what_was_done(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with daemon.client() as client:
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200
        assert client.post("/v1/audio/speech", json={}).status_code == 400
        assert client.get("/nowhere").status_code == 404
        found = metrics(client)
        assert value(found, "requests_total", kind="speech", outcome="served") == 2
        assert value(found, "request_duration_seconds_count", kind="speech") == 2
        assert value(found, "first_audio_seconds_count", engine="hibari") == 2
        assert value(found, "request_duration_seconds_sum", kind="speech") >= value(
            found, "first_audio_seconds_sum", engine="hibari"
        )
        assert 1 < value(found, "audio_seconds_total", engine="hibari") < 6
        assert value(found, "real_time_factor_count", engine="hibari") == 2
        assert 0 < value(found, "real_time_factor_sum", engine="hibari") < 20
        assert value(found, "loads_total", engine="hibari") == 1
        assert value(found, "load_seconds_total", engine="hibari") > 0
        assert value(found, "worker_starts_total") == 1
        assert value(found, "worker_running") == 1
        assert value(found, "responses_total", endpoint="speech.speech", status="200") == 2
        assert value(found, "responses_total", endpoint="speech.speech", status="400") == 1
        assert value(found, "responses_total", endpoint="none", status="404") == 1
        client.post("/api/v1/models/hibari/unload")
        found = metrics(client)
        assert value(found, "unloads_total", engine="hibari") == 1
        assert value(found, "worker_running") == 0
        assert value(found, "worker_deaths_total", reason="died") == 0


def test_a_worker_that_dies_is_counted(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.post("/v1/audio/speech", json=SAY)
        os.kill(daemon.worker_pid(), signal.SIGKILL)
        wait_until(client, lambda found: value(found, "worker_deaths_total", reason="died") == 1)
        client.post("/v1/audio/speech", json=SAY)
        assert value(metrics(client), "worker_starts_total") == 2


def test_a_worker_that_hangs_is_counted(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.heartbeat": 0.5})
    with daemon.client() as client:
        client.post("/v1/audio/speech", json=SAY)
        os.kill(daemon.worker_pid(), signal.SIGSTOP)
        wait_until(client, lambda found: value(found, "worker_deaths_total", reason="hung") == 1)


def test_a_scraper_that_wants_openmetrics_gets_it(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_a_client_that_leaves_stops_its_work(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.heartbeat": 1})
    with daemon.client() as client:
        with client.stream("POST", "/v1/audio/speech", json=ENDLESS) as response:
            pieces = response.iter_raw()
            next(pieces)
            wait_until(client, lambda found: value(found, "worker_busy") == 1)
            assert value(metrics(client), "requests_active") == 1
        found = wait_until(client, lambda found: value(found, "requests_active") == 0)
        assert value(found, "requests_total", kind="speech", outcome="cancelled") == 1
        wait_until(client, lambda found: value(found, "worker_busy") == 0)
        made_s = value(metrics(client), "audio_seconds_total", engine="hibari")
        assert made_s < 60
        assert client.post("/v1/audio/speech", json=SAY).status_code == 200


def test_a_client_that_disconnects_leaves_the_queue(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"limits.concurrency": 1})
    with daemon.client() as client, client.stream("POST", "/v1/audio/speech", json=ENDLESS) as response:
        pieces = response.iter_raw()
        next(pieces)
        with socket.create_connection(daemon.address) as waiting:
            waiting.sendall(RAW)
            wait_until(client, lambda found: value(found, "requests_waiting") == 1)
        found = wait_until(client, lambda found: value(found, "requests_waiting") == 0)
        assert value(found, "requests_total", kind="speech", outcome="cancelled") == 1
        assert value(found, "requests_active") == 1


def test_work_beyond_its_deadline_is_stopped(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.request": 0.01})
    with daemon.client() as client:
        response = client.post("/v1/audio/speech", json=SAY)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "timeouts.request" in response.json()["error"]["message"]
        assert value(metrics(client), "requests_active") == 0


def test_work_that_takes_too_long_is_cut_off_once_audio_has_been_sent(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.request": 3})
    with daemon.client() as client:
        with (
            client.stream("POST", "/v1/audio/speech", json=ENDLESS) as response,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            for _ in response.iter_raw():
                pass
        found = wait_until(client, lambda found: value(found, "requests_active") == 0)
        assert value(found, "requests_total", kind="speech", outcome="failed") == 1


def test_a_reload_with_higher_concurrency_admits_waiting_requests(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "stepaudiod.toml"
    path.write_text("[limits]\nconcurrency = 1\n")
    daemon = start_daemon(options=(f"--config={path}",))
    with (
        daemon.client() as client,
        client.stream("POST", "/v1/audio/speech", json=ENDLESS) as first,
        socket.create_connection(daemon.address) as waiting,
    ):
        pieces = first.iter_raw()
        next(pieces)
        waiting.sendall(RAW)
        wait_until(client, lambda found: value(found, "requests_waiting") == 1)
        path.write_text("[limits]\nconcurrency = 2\n")
        daemon.process.send_signal(signal.SIGHUP)
        found = wait_until(client, lambda found: value(found, "requests_waiting") == 0)
        assert value(found, "requests_active") == 2
