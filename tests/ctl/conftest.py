"""A daemon started by hand, and `stepaudioctl` as a process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.activation import THREADS
from tests.ctl.hub import Hub, published

DEADLINE_S = 60.0
LONG_TEXT = "This sentence is one of very many, and the last of them is never heard. " * 600


class HandStarted:
    """`stepaudiod --set …`, as a user starts it; its log is read line by line."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        self.socket = str(folder / "sock")
        defaults = {"engine": "hibari", "cache_dir": folder} | THREADS
        listen = {"listen.http": f'["{self.socket}", "127.0.0.1:0"]'}
        command = [sys.executable, "-m", "stepaudiod"]
        command += [f"--set={key}={value}" for key, value in (listen | defaults | settings).items()]
        self.process = subprocess.Popen(command, env=_environ(), stderr=subprocess.PIPE, text=True)
        self._lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        ready = self.wait_for("ready on")
        match = re.search(r"127\.0\.0\.1:\d+", ready)
        assert match is not None
        self.url = f"http://{match.group()}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self._lines.append(line)
                self._said.notify_all()

    def wait_for(self, text: str) -> str:
        """The first line of the log that contains a text."""

        def found() -> list[str]:
            return [line for line in self._lines if text in line]

        with self._said:
            assert self._said.wait_for(lambda: bool(found()), DEADLINE_S), (text, self._lines)
            return found()[0]

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Ctl:
    """Runs `stepaudioctl` for one address.

    Args:
        address: options that say where the daemon is.
        path: the PATH it sees, so that only the players of a test are there.
        environ: more variables.
    """

    def __init__(self, address: tuple[str, ...], path: str, **environ: str) -> None:
        self.address = address
        self.path = path
        self.environ = {"PATH": path, **environ}

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        """Start a process, with pipes as its streams by default."""
        command = [sys.executable, "-m", "stepaudiod.ctl", *arguments, *self.address]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=_environ(**self.environ), **(pipes | options))  # type: ignore[call-overload,no-any-return]

    def run(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run to the end."""
        command = [sys.executable, "-m", "stepaudiod.ctl", *arguments, *self.address]
        environ = _environ(**self.environ)
        return subprocess.run(
            command, input=stdin or b"", env=environ, capture_output=True, timeout=DEADLINE_S, check=False
        )

    def ok(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """The standard output of a successful command without messages."""
        done = self.run(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout


def _environ(**more: str) -> dict[str, str]:
    """The environment without variables that configure the programs."""
    return {k: v for k, v in os.environ.items() if not k.startswith("STEPAUDIOD_")} | more


def control(url: str, environ: dict[str, str], programs: Path, **more: str) -> Ctl:
    """`stepaudioctl` that finds a hub by the clients' own variables."""
    return Ctl((), str(programs), **(environ | {"HF_ENDPOINT": url, "MODELSCOPE_ENDPOINT": url} | more))


def add_program(folder: Path, name: str, script: str) -> None:
    """A shell script on the PATH of a test."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


StartByHand = Callable[..., HandStarted]
StartHub = Callable[..., Hub]


@pytest.fixture
def start_by_hand(tmp_path: Path) -> Iterator[StartByHand]:
    """Start a daemon with some settings."""
    started: list[HandStarted] = []

    def start(**settings: object) -> HandStarted:
        folder = tmp_path / f"daemon-{len(started)}"
        folder.mkdir()
        keys = {key.replace("__", "."): value for key, value in settings.items()}
        started.append(HandStarted(folder, keys))
        return started[-1]

    yield start
    for daemon in started:
        daemon.end()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The only folder on the PATH of `stepaudioctl`, with the programs that players' scripts need."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("sh", "cat", "head", "echo"):
        (folder / name).symlink_to(shutil.which(name) or "")
    return folder


@pytest.fixture
def hand_started(start_by_hand: StartByHand) -> HandStarted:
    """A daemon with the small English voice."""
    return start_by_hand()


@pytest.fixture
def ctl(hand_started: HandStarted, programs: Path) -> Ctl:
    """`stepaudioctl` for that daemon, over its unix socket."""
    return Ctl(("--socket", hand_started.socket), str(programs))


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandStarted]:
    """One daemon, which never sleeps, for the tests that don't change it."""
    daemon = HandStarted(tmp_path_factory.mktemp("daemon"), {"idle_timeout": "never"})
    yield daemon
    daemon.end()


@pytest.fixture
def shared_ctl(shared_daemon: HandStarted, programs: Path) -> Ctl:
    """`stepaudioctl` for the shared daemon."""
    return Ctl(("--socket", shared_daemon.socket), str(programs))


@pytest.fixture
def start_hub() -> Iterator[StartHub]:
    """Start a hub whose large file has this size."""
    started: list[Hub] = []

    def start(large_bytes: int = 5000) -> Hub:
        started.append(Hub(published(large_bytes)))
        return started[-1]

    yield start
    for hub in started:
        hub.close()


@pytest.fixture
def hub(start_hub: StartHub) -> Hub:
    """A hub with tiny files."""
    return start_hub()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The folder of all models."""
    return tmp_path / "data" / "models"


@pytest.fixture
def hub_environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without credentials, with a configured models' folder."""
    return {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "huggingface"),
        "HF_HUB_OFFLINE": "0",
        "MODELSCOPE_HOME": str(tmp_path / "modelscope"),
        "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
        "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "STEPAUDIOD_DATA_DIR": str(tmp_path / "data"),
    }


@pytest.fixture
def hub_ctl(hub: Hub, hub_environ: dict[str, str], programs: Path) -> Ctl:
    """`stepaudioctl` that finds that hub by the clients' own variables."""
    return control(hub.url, hub_environ, programs)
