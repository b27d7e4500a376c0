"""Fixtures: each is a factory, and what it made is taken down after the test."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.activation import Activator, DaemonProcess

HAS_TORCH = find_spec("torch") is not None
NEEDS_TORCH = (
    "editx",
    "parity",
    "ctl/test_quantize.py",
    "ctl/test_warm.py",
    "engines/test_recogniser.py",
    "engines/test_step_audio.py",
    "test_lost_gpu.py",
)
"""What can't even be imported without torch."""

collect_ignore = [] if HAS_TORCH else list(NEEDS_TORCH)

StartDaemon = Callable[..., DaemonProcess]

SHARED = ("packages", "systemd")
"""Folders whose tests share a machine, and so a process of pytest-xdist; elsewhere the tests of a file do."""

LONGEST_FIRST = (*SHARED, "browser", "engines")
"""Folders that are begun first, so that all processes end at about the same time."""

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Keep together what shares a machine or a daemon, and keep the order."""
    config.option.loadscopereorder = False
    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = _shared_by
    return scheduling


def _shared_by(nodeid: str) -> str:
    """The folder or the file whose tests run in the process of this one."""
    file = nodeid.partition("::")[0]
    folder = Path(file).parts[1]
    return folder if folder in SHARED else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest-xdist, begin with what takes long."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {folder: number for number, folder in enumerate(LONGEST_FIRST)}
        here = Path(__file__).parent
        items.sort(key=lambda item: order.get(item.path.relative_to(here).parts[0], len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    """After the last test, look for what was never closed; pytest itself does, but not under pytest-xdist."""
    yield
    if nextitem is None:
        leaked: list[str] = []
        before = sys.unraisablehook
        sys.unraisablehook = lambda found: leaked.append(f"{found.exc_value} ({found.object!r})")
        gc.collect()
        sys.unraisablehook = before
        assert not leaked, leaked


def pytest_configure() -> None:
    """A shell's background job ignores SIGINT, and so would all that the tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    """Say what is left out."""
    return [] if HAS_TORCH else [f"torch isn't installed: left out {', '.join(NEEDS_TORCH)}, and what skips"]


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Start a daemon that has its sockets from us; returns when it is ready."""
    yield from _starter(tmp_path)


@pytest.fixture(scope="module")
def start_module_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDaemon]:
    """The same, for a daemon that the tests of a module share."""
    yield from _starter(tmp_path_factory.mktemp("shared"))


def _starter(parent: Path) -> Iterator[StartDaemon]:
    """Start daemons, and end them in the end."""
    started: list[DaemonProcess] = []

    def start(settings: dict[str, object] | None = None, **options: Any) -> DaemonProcess:
        folder = parent / f"daemon-{len(started)}"
        folder.mkdir()
        daemon = DaemonProcess(folder, settings or {}, **options)
        started.append(daemon)
        daemon.notify.wait_for("READY=1")
        return daemon

    yield start
    for daemon in started:
        daemon.end()


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    """A daemon with the default settings and the small English voice."""
    return start_daemon()


@pytest.fixture
def activator(tmp_path: Path) -> Iterator[Callable[[dict[str, object]], Activator]]:
    """Hold sockets and start a daemon for each connection."""
    made: list[Activator] = []

    def make(settings: dict[str, object]) -> Activator:
        made.append(Activator(tmp_path, {"engine": "hibari"} | settings))
        return made[-1]

    yield make
    for each in made:
        each.end()
