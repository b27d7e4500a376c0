"""Long use in a network that captures every packet; 60 times the default lasts 10 minutes."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import pytest

from tests.attack.conftest import Tally
from tests.conftest import StartDaemon
from tests.everything import CLIENTS, a_users_environ, ask_everything, open_page
from tests.web.conftest import data
from tests.web.test_quiet import reports
from tests.wire import Wire

__all__ = ["data"]

SECONDS = 10
TEXTS = [
    f"{greeting}, this is {what}."
    for greeting, what in itertools.product(
        ("Good morning", "Good evening", "Hello", "Welcome back"),
        ("the news", "a short story", "the weather", "number 7", "your reminder", "the end"),
    )
]


@pytest.mark.slow
def test_no_packet_leaves(
    start_daemon: StartDaemon, data: Path, tmp_path: Path, scale: int, tally: Tally
) -> None:
    with Wire.tap(tmp_path) as wire:
        environ = a_users_environ(tmp_path)
        settings: dict[str, object] = {"engine": "auto", "threads": 1, "data_dir": data}
        settings |= {"step_audio.dtype": "fp32", "step_audio.check_output": "false", "idle_timeout": "never"}
        daemon = start_daemon(settings, environ=environ, within=wire.enter)
        ends_at = time.monotonic() + SECONDS * scale
        asked = 0
        with daemon.client() as client:
            open_page(client)
            assert wire.run(sys.executable, "-c", CLIENTS, environ=environ).returncode == 0
            ask_everything(client)
            for text in itertools.islice(TEXTS, min(len(TEXTS), 2 * scale)):
                ask_everything(client, text)
                asked += 1
            while time.monotonic() < ends_at:
                client.get("/healthz").raise_for_status()
                time.sleep(min(5.0, max(0.0, ends_at - time.monotonic())))
        tally(f"packets that leave in {SECONDS * scale} s, each engine, page and hub clients", asked, asked)
        assert (wire.names, wire.packets, wire.heard) == ([], [], [])
        assert reports(tmp_path) == []
