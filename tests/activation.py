"""Starts the daemon as systemd does: with sockets from outside, at a connection."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stepaudiod import activate
from stepaudiod.activate import Process, start

DEADLINE_S = 60.0
"""A test that waits for an event gives up here; nothing is ever asserted to be this slow."""

THREADS: dict[str, object] = {"threads": 1} if "PYTEST_XDIST_WORKER" in os.environ else {}
"""Beside a second process of tests, a daemon that computes on every core waits for its own threads."""

BINDINGS = ("systemd-python", "standard library")
"""What stepaudiod/systemd.py can use, as parameters of tests; `bindings_environ` chooses."""


def bindings_environ(name: str, folder: Path) -> dict[str, str]:
    """Variables for a daemon that uses these bindings; for the second, modules that can't be imported."""
    if name == "systemd-python":
        pytest.importorskip("systemd.daemon", reason="the extra `systemd` isn't installed")
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    for module in ("sdnotify", "systemd"):
        (folder / f"{module}.py").write_text("raise ImportError(__name__)\n")
    return {"PYTHONPATH": str(folder)}


class NotifySocket:
    """The manager's end of sd_notify(3): stores every message, and waits for one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join(DEADLINE_S)
        self._socket.close()

    def _receive(self) -> None:
        while message := self._socket.recv(4096).decode():
            with self._arrived:
                self.messages += message.split("\n")
                self._arrived.notify_all()

    def wait_for(self, text: str, count: int = 1) -> str:
        """The first message with this beginning; with `count`, after that many of them."""

        def found() -> list[str]:
            return [m for m in self.messages if m.startswith(text)]

        with self._arrived:
            assert self._arrived.wait_for(lambda: len(found()) >= count, DEADLINE_S), (text, self.messages)
            return found()[count - 1]


class DaemonProcess:
    """A running daemon with its inherited sockets.

    Args:
        folder: for its unix socket, its notify socket and its log.
        settings: `key=value`, as for `--set`.
        roles: one TCP socket for each; the unix socket is the first role's.
        listeners: sockets to hand on instead of new ones.
        environ: more variables.
        within: a command that runs the daemon, for instance in other namespaces.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, object],
        roles: tuple[str, ...] = ("http",),
        listeners: list[tuple[str, socket.socket]] | None = None,
        environ: dict[str, str] | None = None,
        options: tuple[str, ...] = (),
        within: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.log_path = folder / "log"
        self.listeners = listeners if listeners is not None else listening_sockets(folder, roles)
        self.notify = NotifySocket(folder / f"notify-{len(list(folder.iterdir()))}")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("STEPAUDIOD_", "LISTEN_"))} | {
            "NOTIFY_SOCKET": str(self.notify.path),
            **(environ or {}),
        }
        defaults: dict[str, object] = {"engine": "hibari", "cache_dir": folder / "cache"} | THREADS
        assignments = [f"--set={key}={value}" for key, value in (defaults | settings).items()]
        command = [*within, sys.executable, "-m", "stepaudiod", *assignments, *options]
        with self.log_path.open("ab") as log:
            self.process = start(command, self.listeners, env, stderr_fd=log.fileno())

    @property
    def address(self) -> tuple[str, int]:
        """The first TCP socket."""
        host, port = self.listeners[0][1].getsockname()
        return host, port

    @property
    def url(self) -> str:
        """The base URL of the first TCP socket."""
        return self.url_of(self.listeners[0][0])

    def url_of(self, role: str) -> str:
        """The base URL of the TCP socket of that role."""
        listener = next(s for name, s in self.listeners if name == role and s.family == socket.AF_INET)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    @property
    def unix_path(self) -> str:
        """The unix socket."""
        return str(next(s.getsockname() for _, s in self.listeners if s.family == socket.AF_UNIX))

    def client(self, role: str | None = None) -> httpx.Client:
        """A client of the TCP socket."""
        return httpx.Client(base_url=self.url_of(role) if role else self.url, timeout=DEADLINE_S)

    def client_of(self, listener: socket.socket) -> httpx.Client:
        """A client of this socket, TCP or unix."""
        if listener.family == socket.AF_UNIX:
            transport = httpx.HTTPTransport(uds=listener.getsockname())
            return httpx.Client(base_url="http://localhost", transport=transport, timeout=DEADLINE_S)
        return httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=DEADLINE_S)

    @functools.cached_property
    def shared_client(self) -> httpx.Client:
        """A client that lives as long as the daemon."""
        return self.client()

    def log(self) -> str:
        """The daemon's stderr."""
        return self.log_path.read_text()

    def wait(self) -> int:
        """Wait for the exit status."""
        return self.process.wait(DEADLINE_S)

    def worker_pid(self) -> int:
        """The process id of the worker, from the daemon's status."""
        with self.client() as client:
            pid = client.get("/api/v1/models/status").json()["daemon"]["worker_pid"]
        assert pid is not None
        return int(pid)

    def end(self) -> None:
        if "shared_client" in vars(self):
            self.shared_client.close()
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
        self.process.wait()
        self.notify.close()
        for _, listener in self.listeners:
            listener.close()


def listening_sockets(folder: Path, roles: tuple[str, ...] = ("http",)) -> list[tuple[str, socket.socket]]:
    """A TCP socket for each role, and a unix socket for the first."""
    sockets: list[tuple[str, socket.socket]] = []
    for role in roles:
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        sockets.append((role, listener))
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.bind(str(folder / "sock"))
    unix.listen(4096)
    sockets.append((roles[0], unix))
    return sockets


class Activator:
    """The activator of `make run`, in a thread, for daemons with a notify socket each."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        self.listeners = listening_sockets(folder)
        self.daemons: list[DaemonProcess] = []
        self._folder = folder
        self._settings = settings
        self._activator = activate.Activator(self.listeners, self._start)
        self._thread = threading.Thread(target=self._activator.run, daemon=True)
        self._thread.start()

    def _start(self) -> Process:
        if self.daemons:
            self.daemons[-1].notify.close()
        self.daemons.append(DaemonProcess(self._folder, self._settings, listeners=self.listeners))
        return self.daemons[-1].process

    @property
    def address(self) -> tuple[str, int]:
        """Where to connect."""
        host, port = self.listeners[0][1].getsockname()
        return host, port

    @property
    def starts(self) -> int:
        """The number of started daemons."""
        return len(self.daemons)

    @property
    def exit_codes(self) -> list[int]:
        """The exit status of each daemon that has exited."""
        codes = [daemon.process.returncode for daemon in self.daemons]
        return [code for code in codes if code is not None]

    def end(self) -> None:
        self._activator.stop()
        self._thread.join(DEADLINE_S)
        self._activator.close()
        if self.daemons:
            self.daemons[-1].end()
        for _, listener in self.listeners:
            listener.close()


def pids_of_group(parent: int) -> Iterator[int]:
    """The children of a process."""
    for entry in Path(f"/proc/{parent}/task").iterdir():
        yield from map(int, (entry / "children").read_text().split())
