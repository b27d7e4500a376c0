"""A Debian with a running systemd, for testing the units and the daemon.

    with Machine.boot(cached_root(), read_only=[checkout]) as machine:
        machine.install_units(checkout / "packaging/systemd")
        machine.systemctl("start", "stepaudiod.socket")
        assert machine.request("GET", "/healthz").status == 200
        machine.wait_for_state("stepaudiod.service", "inactive")

Commands run inside through nsenter; files, processes and sockets are reached from outside, which costs no
process. What is written inside is gone with the machine. Its network is one loopback of its own, so its ports
are free whatever the host listens on.
"""

from __future__ import annotations

import contextlib
import glob
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.systemd.boot import booted, cgroup_of
from tests.systemd.journal import Journal
from tests.systemd.network import Address, Network, Reply

TCP4: Address = ("127.0.0.1", 7860)
TCP6: Address = ("::1", 7860)
UNIX: Address = "/run/stepaudiod.sock"
API: Address = ("127.0.0.1", 8003)

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
DROP_INS = "/run/systemd/system"

T = TypeVar("T")


class Machine:
    """A booted machine; `Machine.boot` makes one.

    Args:
        leader: the process that is PID 1 in there, as the host numbers it.
    """

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self._cgroup = cgroup_of(leader)
        self._network = Network(leader)
        self._overridden: set[str] = set()
        self.journal = Journal(
            self._follow_journal(),
            sync=lambda: self.run("journalctl", "--sync"),
            send=self._log,
        )

    @classmethod
    @contextlib.contextmanager
    def boot(cls, root: Path, read_only: Sequence[Path] = (), **options: Any) -> Iterator[Machine]:
        """Boot the Debian in `root`, with the host's `read_only` folders at the same paths; see `booted`.

        Raises:
            Unavailable: it doesn't boot on this host; the message says why.
        """
        with booted(root, read_only, **options) as leader:
            machine = cls(leader)
            try:
                yield machine
            finally:
                machine.journal.close()
                machine._network.close()

    def power_off(self) -> None:
        """Shut down regularly: services are stopped. The machine can't be used afterwards."""
        self.systemctl("poweroff", "--no-block")
        self.wait_for_exit(self.leader, timeout_s=90)

    # commands

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: str | None = None,
        user: str | None = None,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root or as a user of the machine.

        Raises:
            AssertionError: it failed, and `check` is on.
        """
        done = subprocess.run(
            self._command(argv, user),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=ENVIRONMENT,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def spawn(self, *argv: str, user: str | None = None) -> subprocess.Popen[bytes]:
        """Start a command inside without waiting; its standard output is a pipe."""
        command = self._command(argv, user)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=ENVIRONMENT)

    def _command(self, argv: Sequence[str], user: str | None) -> list[str]:
        enter = ["nsenter", f"--target={self.leader}", "--all", "--root", "--wd", "--"]
        as_user = ["runuser", "-u", user, "--"] if user else []
        # nsenter waits for its child, and a signal to nsenter is meant for the child
        return [*enter, *as_user, "setpriv", "--pdeathsig=KILL", "--", *argv]

    # files

    def path(self, path: str | Path) -> Path:
        """The host's path of a file inside, without absolute symbolic links."""
        return Path(f"/proc/{self.leader}/root{path}")

    def write(self, path: str | Path, text: str, mode: int = 0o644) -> None:
        """Write a file, creating its parent folders."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def copy_in(self, source: Path, path: str | Path) -> None:
        """Copy a file or a folder of the host into the machine."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)

    def remove(self, path: str | Path) -> None:
        """Remove a file or a folder, if it exists."""
        target = self.path(path)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    # units

    def install_units(self, folder: Path) -> None:
        """Install `packaging/systemd` like the package, but enable and start nothing."""
        for unit in (*folder.glob("*.socket"), *folder.glob("*.service")):
            self.copy_in(unit, f"/usr/lib/systemd/system/{unit.name}")
        self.copy_in(folder / "stepaudiod.sysusers", "/usr/lib/sysusers.d/stepaudiod.conf")
        self.copy_in(folder / "stepaudiod.tmpfiles", "/usr/lib/tmpfiles.d/stepaudiod.conf")
        self.run("systemd-sysusers", "stepaudiod.conf")
        self.run("systemd-tmpfiles", "--create", "stepaudiod.conf")
        self.systemctl("daemon-reload")

    def drop_in(self, unit: str, text: str) -> None:
        """Override parts of a unit, until `reset`. A running one uses it at its next start."""
        self.write(f"{DROP_INS}/{unit}.d/test.conf", text)
        self._overridden.add(unit)
        self.systemctl("daemon-reload")

    def reset(self, *units: str) -> None:
        """Stop these units, reset their failures, and remove all drop-ins."""
        # An unclean stop is quick, and leaves no request behind that could start the service again.
        self.systemctl(
            "kill", "--signal=KILL", *(unit for unit in units if unit.endswith(".service")), check=False
        )
        self.systemctl("stop", *units)
        self.systemctl("reset-failed", *units, check=False)
        if self._overridden:
            for unit in self._overridden:
                self.remove(f"{DROP_INS}/{unit}.d/test.conf")
            self._overridden.clear()
            self.systemctl("daemon-reload")

    def systemctl(self, *argv: str, check: bool = True) -> str:
        """The output of `systemctl`; start, stop and reload wait for their jobs."""
        return self.run("systemctl", "--no-pager", *argv, check=check).stdout

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def wait_for_state(self, unit: str, *states: str, timeout_s: float = 20) -> str:
        """Wait until the unit's ActiveState is one of these (active, inactive, failed...); return it."""
        return self.wait_until(
            lambda: (state := self.show(unit, "ActiveState")) in states and state,
            f"{unit} is {' or '.join(states)}",
            timeout_s=timeout_s,
        )

    def wait_until(self, condition: Callable[[], T | bool | None], what: str, *, timeout_s: float = 20) -> T:
        """Wait until the condition returns a true value, and return it. It is checked at each journal entry.

        Raises:
            TimeoutError: it never did; the message ends with the journal.
        """
        deadline = time.monotonic() + timeout_s
        seen = len(self.journal)
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"not within {timeout_s} s: {what}; the journal says:\n{self.journal.tail()}"
                )
            seen = self.journal.wait_for_growth(seen, timeout_s=0.1)
        return value  # type: ignore[return-value]  # it is true, so it is no None

    # processes

    def processes(self, unit: str) -> list[int]:
        """The unit's processes, as the host's process ids."""
        pids: set[int] = set()
        # not Path.glob, which fails if a control group is removed meanwhile
        for path in glob.glob(f"{self._cgroup}/system.slice/**/{unit}/**/cgroup.procs", recursive=True):
            # one whose last process is a zombie can't be read
            with contextlib.suppress(OSError):
                pids.update(map(int, Path(path).read_text().split()))
        return sorted(pids)

    def main_process(self, unit: str) -> int:
        """The unit's main process, as the host's process id; 0 if there is none."""
        inside = self.show(unit, "MainPID")
        return next((pid for pid in self.processes(unit) if _number_inside(pid) == inside), 0)

    def children(self, unit: str) -> list[int]:
        """The unit's processes except its main one."""
        main = self.main_process(unit)
        return [pid for pid in self.processes(unit) if pid != main]

    def workers(self, unit: str) -> list[int]:
        """The unit's workers, without the child that makes the page."""
        return [
            pid
            for pid in self.children(unit)
            if b"stepaudiod.worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def wait_for_exit(self, pid: int, timeout_s: float = 20) -> None:
        """Wait until that process of the host has exited.

        Raises:
            TimeoutError: it is still there.
        """
        try:
            end = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if not select.select([end], [], [], timeout_s)[0]:
                raise TimeoutError(f"process {pid} still lives after {timeout_s} s")
        finally:
            os.close(end)

    # sockets

    @property
    def network(self) -> Path:
        """The network namespace, for setns(2)."""
        return Path(f"/proc/{self.leader}/ns/net")

    def connect(self, at: Address = TCP4, timeout_s: float = 30) -> socket.socket:
        """A connected socket, or the OSError that a client inside would get."""
        return self._network.connect(at, timeout_s)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        at: Address = TCP4,
        timeout_s: float = 30,
    ) -> Reply:
        """An HTTP request on a new connection."""
        return self._network.request(method, path, body, headers, at=at, timeout_s=timeout_s)

    def listening_ports(self) -> set[int]:
        """The TCP ports with listeners: proc_net(5)."""
        listening, ports = "0A", set()
        for name in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.leader}/net/{name}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == listening:
                    ports.add(int(local.rpartition(":")[2], 16))
        return ports

    def _follow_journal(self) -> subprocess.Popen[bytes]:
        """Follow from outside: a shutdown waits for foreign processes inside."""
        folder = f"--directory={self.path('/run/log/journal')}"
        command = ["journalctl", folder, "--follow", "--lines=all", "--output=json", "--quiet"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def _log(self, message: str) -> None:
        """Write to the machine's journal."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.sendto(f"MESSAGE={message}\n".encode(), str(self.path("/run/systemd/journal/socket")))


def _number_inside(pid: int) -> str:
    """The machine's process id of a process of the host."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1]
    return ""
