"""Boots a folder with systemd-nspawn, on hosts with and without systemd.

Knows nothing of what is done with the booted system.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tests.systemd.root import Unavailable

BOOT_TIMEOUT_S = 60.0


@contextlib.contextmanager
def booted(
    root: Path,
    read_only: Sequence[Path] = (),
    writable: Mapping[Path, str] = MappingProxyType({}),
    has_internet: bool = False,
) -> Iterator[int]:
    """Boot the Debian in `root`.

    Args:
        root: the folder.
        read_only: folders of the host, seen inside at the same paths.
        writable: folders of the host that can be written to, and their paths inside.
        has_internet: use the host's network; without it the only network is a loopback of its own.

    Yields the PID of its init, as the host numbers it. All else that is written inside goes to memory.

    Raises:
        Unavailable: it doesn't boot on this host; the message says why.
    """
    for tool in ("systemd-nspawn", "nsenter", "setpriv"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed")
    with contextlib.ExitStack() as stack:
        name = f"machine-{uuid.uuid4().hex[:8]}"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-")))
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(str(folder / "notify"))
        cgroup = stack.enter_context(_own_cgroup(name))
        console = stack.enter_context((folder / "console").open("w+b"))
        nspawn = subprocess.Popen(
            _command(name, root, cgroup, [*_binds(read_only, writable), *_network(has_internet)]),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            env=os.environ
            | {
                "NOTIFY_SOCKET": str(folder / "notify"),
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                # The overlay leaves the folder alone, so that any number of machines may share it.
                "SYSTEMD_NSPAWN_LOCK": "0",
            },
        )
        try:
            leader = _wait_until_ready(nspawn, ready)
            # full of later messages, the socket would block systemd-nspawn, and then the machine's init
            ready.close()
            yield leader
        except Unavailable as error:
            console.seek(0)
            said = console.read().decode(errors="replace")
            raise Unavailable(f"{error}; systemd-nspawn said:\n{said[-2000:]}") from None
        finally:
            _end(nspawn)


def _binds(read_only: Sequence[Path], writable: Mapping[Path, str]) -> list[str]:
    """The bind mounts of the host's folders; a colon in a path is escaped with a backslash."""
    paths = {path: str(path).replace(":", "\\:") for path in (*read_only, *writable)}
    return [
        *(f"--bind-ro={paths[path]}" for path in read_only),
        *(f"--bind={paths[path]}:{inside}" for path, inside in writable.items()),
    ]


def _network(has_internet: bool) -> list[str]:
    return ["--resolv-conf=copy-host"] if has_internet else ["--resolv-conf=off", "--private-network"]


def _command(name: str, root: Path, cgroup: Path | None, options: Sequence[str]) -> list[str]:
    """The machine ends with this process, by setpriv's parent-death signal."""
    nspawn = [
        *(
            "systemd-nspawn",
            "--quiet",
            "--boot",
            f"--machine={name}",
            f"--directory={root}",
            "--volatile=overlay",
        ),
        *("--register=no", "--notify-ready=yes", "--console=pipe", "--link-journal=no"),
        *(
            "--timezone=off",
            "--kill-signal=SIGKILL",
            # For IPAddressDeny= and DevicePolicy=, which systemd would quietly do without.
            "--system-call-filter=bpf",
            *options,
        ),
    ]
    with_us = ["setpriv", "--pdeathsig=TERM"]
    if cgroup is None:
        return [*with_us, *nspawn]
    enter = ["sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(cgroup)]
    return [*with_us, *enter, *nspawn, "--keep-unit"]


@contextlib.contextmanager
def _own_cgroup(name: str) -> Iterator[Path | None]:
    """A control group for systemd-nspawn; None if the host's systemd provides it."""
    if Path("/run/systemd/system").is_dir():
        yield None
        return
    cgroup = cgroup_mount() / name
    try:
        cgroup.mkdir()
    except OSError as error:
        raise Unavailable(f"{cgroup} can't be made: {error.strerror}") from None
    try:
        yield cgroup
    finally:
        _empty(cgroup)
        for path in sorted(cgroup.glob("**/"), reverse=True):
            path.rmdir()


def _empty(cgroup: Path) -> None:
    """Kill the processes of a control group, and wait until it is empty: cgroups(7)."""
    (cgroup / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    with (cgroup / "cgroup.events").open() as events:
        changes = select.poll()
        changes.register(events, select.POLLPRI)
        while "populated 0" not in events.read() and time.monotonic() < deadline:
            changes.poll(1000)
            events.seek(0)


def cgroup_mount() -> Path:
    """Where the host has its cgroup2 hierarchy, alone or beside those of version 1."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            return Path(left.split()[4])
    raise Unavailable("no cgroup2 hierarchy is mounted")


def cgroup_of(leader: int) -> Path:
    """The machine's root control group."""
    for line in Path(f"/proc/{leader}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return cgroup_mount() / line.removeprefix("0::/").removesuffix("/init.scope")
    raise Unavailable("the machine's init is in no cgroup2 hierarchy")


def _wait_until_ready(nspawn: subprocess.Popen[bytes], ready: socket.socket) -> int:
    """Wait for systemd-nspawn's leader, and then for the end of the boot."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    end = os.pidfd_open(nspawn.pid)
    leader = 0
    try:
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([ready.fileno(), end], [], [], left)
            if end in readable:
                raise Unavailable(f"the machine ended while it booted (status {nspawn.wait()})")
            for line in ready.recv(4096).decode().splitlines() if readable else ():
                key, _, value = line.partition("=")
                if key == "X_NSPAWN_LEADER_PID":
                    leader = int(value)
                elif key == "READY" and leader:
                    return leader
    finally:
        os.close(end)
    raise Unavailable(f"the machine was not up within {BOOT_TIMEOUT_S:.0f} s")


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """Kill the machine's init with all processes; systemd-nspawn then cleans up and exits."""
    nspawn.terminate()
    try:
        nspawn.wait(20)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait()
