"""The daemon sends nothing to other machines, and its libraries store no telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepaudiod import NO_TELEMETRY
from tests.conftest import StartDaemon
from tests.everything import CLIENTS, a_users_environ, ask_everything, open_page
from tests.wire import Wire

LINGER_S = 15.0
"""onnxruntime 1.32 sends its first report within ten seconds of loading a model."""
LOOK_UP = "import socket; socket.getaddrinfo('control.invalid', 443)"
PRINT_VARIABLES = "import os, stepaudiod; print(sorted((k, os.environ[k]) for k in stepaudiod.NO_TELEMETRY))"


def reports(folder: Path) -> list[Path]:
    """The telemetry files of onnxruntime."""
    return [
        path for path in folder.rglob("*") if path.name in ("Microsoft", ".onnxruntime", "onnxruntime.db")
    ]


def test_one_sentence_leaves_no_telemetry_files(start_daemon: StartDaemon, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    daemon = start_daemon(environ=a_users_environ(home) | {"ORT_DISABLE_TELEMETRY": "0"})
    with daemon.client() as client:
        say = {"model": "hibari", "input": "Good evening.", "voice": "alloy"}
        client.post("/v1/audio/speech", json=say).raise_for_status()
    if os.geteuid() == 0:  # others may not look into the worker
        assert "onnxruntime" in Path(f"/proc/{daemon.worker_pid()}/maps").read_text()
    assert reports(tmp_path) == []


def test_telemetry_is_disabled_before_any_library_is_imported(tmp_path: Path) -> None:
    environ = a_users_environ(tmp_path) | {"ORT_DISABLE_TELEMETRY": "0", "GRADIO_ANALYTICS_ENABLED": "True"}
    for module in ("worker.main", "ctl.main", "web.page.render", "engines.hibari", "editx", "audio.decode"):
        command = [sys.executable, "-c", f"import stepaudiod.{module}; {PRINT_VARIABLES}"]
        told = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        assert told.strip() == str(sorted(NO_TELEMETRY.items()))


@pytest.mark.slow  # a report is sent some seconds after a model has been loaded
def test_nothing_is_sent_to_other_machines(start_daemon: StartDaemon, data: Path, tmp_path: Path) -> None:
    with Wire.tap(tmp_path) as wire:
        environ = a_users_environ(tmp_path)
        wire.run(sys.executable, "-c", LOOK_UP, environ=environ)
        wire.wait()
        assert set(wire.names) == {"control.invalid"}  # the wire hears a program that asks for a name
        wire.packets.clear()
        settings: dict[str, object] = {"engine": "auto", "threads": 1, "data_dir": data}
        settings |= {"step_audio.dtype": "fp32", "step_audio.check_output": "false"}
        daemon = start_daemon(settings, environ=environ, within=wire.enter)
        with daemon.client() as client:
            assert {"hibari", "step-audio-editx", "studio", "whisper-tiny.en"} <= ask_everything(client)
            open_page(client)
            used_at = time.monotonic()
            imported = wire.run(sys.executable, "-c", CLIENTS, environ=environ)
            assert imported.returncode == 0, imported.stderr
            time.sleep(max(0.0, used_at + LINGER_S - time.monotonic()))
            client.get("/healthz").raise_for_status()
        assert (wire.names, wire.packets) == (["control.invalid"] * len(wire.names), [])
    assert reports(tmp_path) == []
