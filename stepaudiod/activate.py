"""Socket activation without systemd: `python -m stepaudiod.activate --listen ADDRESS... [-- OPTION...]`.

This process binds the sockets, waits for a connection, starts the daemon with the sockets and waits for its
exit; then it waits for a connection again. It never accepts: a connection that arrives while no daemon runs
stays in the kernel's queue for the next one.

Source of the protocol: sd_listen_fds(3).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stepaudiod.errors import AddressTaken
from stepaudiod.systemd import bind

Named = tuple[str, socket.socket]
"""A listening socket and its name, which is the role that it serves."""

FIRST_FD = 3
"""The first descriptor that the daemon gets: SD_LISTEN_FDS_START."""

HIGH_FD = 100
"""Duplicates of the sockets start here, so that dup2 to 3, 4, ... overwrites none of them."""

MANAGER_VARIABLES = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")
"""Prefixes of variables that a service manager set for this process; the daemon must not see them."""

FAILED_START_S = 10.0
"""A daemon that fails sooner than this counts as a failed start."""

ELSEWHERE = "To listen elsewhere: make run LISTEN=127.0.0.1:7870 SOCKET=PATH; by hand, --listen ADDRESS."

MAX_FAILED_STARTS = 3

PAUSE_S = 1.0
"""Pause after a failed start, times the number of consecutive failures."""


class Process:
    """A started daemon, in its own process group, with the methods of subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """The exit status, or minus the number of the signal that ended it; None while it runs."""
        self.pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self.pidfd)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status; after `timeout` seconds, raise `subprocess.TimeoutExpired`."""
        if self.poll() is None:
            exited = select.poll()
            exited.register(self.pidfd, select.POLLIN)
            exited.poll(None if timeout is None else timeout * 1000)
        returncode = self.poll()
        if returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[str],
    listeners: Sequence[Named],
    environ: Mapping[str, str],
    stderr_fd: int = 2,
) -> Process:
    """Start a daemon with these sockets as its descriptors 3, 4, ..., in this order."""
    copies = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH_FD) for _, each in listeners]
    moves = [(os.POSIX_SPAWN_DUP2, copy, FIRST_FD + n) for n, copy in enumerate(copies)]
    variables = {
        "LISTEN_FDS": str(len(listeners)),
        "LISTEN_FDNAMES": ":".join(name for name, _ in listeners),
    }
    try:
        # LISTEN_PID must be the daemon's own process id; that of the shell stays the same through exec.
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *command],
            {**environ, **variables},
            file_actions=[(os.POSIX_SPAWN_DUP2, stderr_fd, 2), *moves],
            setpgroup=0,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them, and children inherit that
        )
    finally:
        for copy in copies:
            os.close(copy)
    return Process(pid)


class Activator:
    """Starts a daemon when a connection waits and no daemon runs."""

    def __init__(self, listeners: Sequence[Named], start_daemon: Callable[[], Process]) -> None:
        self._listeners = listeners
        self._start_daemon = start_daemon
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    @property
    def wakeup_fd(self) -> int:
        """For signal.set_wakeup_fd: each signal terminates the daemon by SIGTERM, and then `run` returns."""
        return self._waker.fileno()

    def stop(self) -> None:
        """Start no more daemons: `run` returns once the current one has exited by itself."""
        self._waker.send(b"\0")

    def close(self) -> None:
        """Close the wakeup descriptors; the listeners stay open."""
        self._woken.close()
        self._waker.close()

    def run(self) -> int:
        """Start daemons until `stop` or a signal; return 0, or the status of the third failed start."""
        failures = 0
        stopping = False
        sockets = [each.fileno() for _, each in self._listeners]
        while not stopping and self._wait(sockets):
            started = time.monotonic()
            daemon = self._start_daemon()
            stopping = self._wait_for_exit(daemon)
            returncode = daemon.wait()
            if returncode == 0 or stopping:
                failures = 0
                continue
            failures = failures + 1 if time.monotonic() - started < FAILED_START_S else 0
            _log(f"the daemon ended with {_describe(returncode)}")
            if failures == MAX_FAILED_STARTS:
                _log(f"giving up: the daemon failed to start {failures} times in a row; see the errors above")
                return max(returncode, 1)
            stopping = not self._wait([], failures * PAUSE_S)
        return 0

    def _wait(self, fds: Sequence[int], timeout_s: float | None = None) -> bool:
        """Wait until a descriptor is readable or the timeout is over; False when told to stop."""
        poll = select.poll()
        for fd in (*fds, self._woken.fileno()):
            poll.register(fd, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        return self._woken.fileno() not in dict(ready)

    def _wait_for_exit(self, daemon: Process) -> bool:
        """Wait until the daemon has exited, forwarding signals; return whether told to stop."""
        stopping = False
        while daemon.poll() is None:
            if not self._wait([daemon.pidfd]):
                stopping = True
                for byte in self._woken.recv(16):
                    if byte:
                        daemon.send_signal(signal.SIGTERM)
        return stopping


def _log(text: str) -> None:
    print(f"stepaudiod.activate: {text}", file=sys.stderr, flush=True)


def _describe(returncode: int) -> str:
    return f"status {returncode}" if returncode >= 0 else signal.Signals(-returncode).name


def _listen(address: str, on_exit: contextlib.ExitStack) -> socket.socket:
    """Bind an address; all errors of `bind` name it. On exit, close it and remove its file."""
    try:
        listener = on_exit.enter_context(bind(address))
    except OverflowError as error:
        raise ValueError(f"{address!r}: {error}") from error
    except OSError as error:
        raise OSError(f"{address}: {error.strerror or error}") from error
    if listener.family == socket.AF_UNIX:
        on_exit.callback(_remove, Path(address), Path(address).lstat().st_ino)
    return listener


def _remove(path: Path, inode: int) -> None:
    """Remove a socket's file, unless another process has replaced it."""
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_ino == inode:
            path.unlink()


def _role_and_address(text: str) -> tuple[str, str]:
    """Split `api=127.0.0.1:8003`; the default role is http."""
    role, separator, address = text.partition("=")
    return (role, address) if separator and role in ("http", "api", "page") else ("http", text)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stepaudiod.activate",
        usage="%(prog)s --listen [ROLE=]ADDRESS ... [-- OPTION ...]",
        description="Listen on sockets, and start stepaudiod when a connection arrives.",
    )
    parser.add_argument(
        "--listen",
        action="append",
        required=True,
        metavar="[ROLE=]ADDRESS",
        help="host:port, [v6 address]:port or the path of a unix socket; "
        "ROLE is what it serves: http (the default), api or page",
    )
    parser.add_argument("--hint", metavar="TEXT", help="printed once it listens")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="an option of stepaudiod")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; the daemon finishes its requests first.

    Returns:
        0 after a stop, 1 where an address can't be bound, the daemon's status where it doesn't start.
    """
    parsed = _build_parser().parse_args(argv)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(MANAGER_VARIABLES)}
    command = [sys.executable, "-m", "stepaudiod", *parsed.options]
    listeners: list[Named] = []
    activator = Activator(listeners, lambda: start(command, listeners, environ))
    # From here on a signal makes `run` return, so the files of unix sockets are removed.
    signal.set_wakeup_fd(activator.wakeup_fd)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with contextlib.ExitStack() as on_exit:
        try:
            for role, address in map(_role_and_address, parsed.listen):
                listeners.append((role, _listen(address, on_exit)))
        except AddressTaken as error:
            _log(f"can't listen: {error}\n{ELSEWHERE}")
            return 1
        except (OSError, ValueError) as error:
            _log(f"can't listen on {error}")
            return 1
        _log(f"listening on {', '.join(parsed.listen)}; the daemon starts at the first connection")
        if parsed.hint:
            print(parsed.hint, file=sys.stderr, flush=True)
        return activator.run()


if __name__ == "__main__":
    sys.exit(main())
