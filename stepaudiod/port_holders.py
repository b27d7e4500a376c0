"""Names the process that listens at an address, for messages about an address that is taken.

Reads /proc as ss(8) does: it opens no connection, so it wakes no daemon. `python -m stepaudiod.port_holders
ADDRESS...` prints a line for each of these addresses that is taken.

Sources: proc_net(5), proc_pid_fd(5), cgroups(7).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TCP_LISTEN = "0A"
UNIX_LISTEN = 0x10000
DOCKER = ("docker-proxy", "dockerd")
"""The processes that listen at the published ports of containers."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Holder(NamedTuple):
    """Which process listens, and how to stop it."""

    text: str
    advice: str


class Bound(NamedTuple):
    """A listening socket; the address is written as systemd and ss write it."""

    address: str
    inode: int
    uid: int


class Process(NamedTuple):
    """A process; `unit` is empty where it belongs to none, `container` is a short id of Docker."""

    pid: int
    name: str
    uid: int
    unit: str
    is_user_unit: bool
    container: str


def is_taken(address: str) -> bool:
    """Whether a process listens at `host:port`, `[v6]:port` or a unix socket's path, or at all addresses."""
    return bool(_bound(address))


def explain(address: str) -> str:
    """Say which process listens at an address and how to stop it; empty if none does."""
    found = find_holder(address)
    return f"{address} is taken: {found.text}. {found.advice}" if found else ""


def find_holder(address: str) -> Holder | None:
    """The process that listens at an address, as far as the current user may know it; None if none does."""
    bound = _bound(address)
    if not bound:
        return None
    at = bound[0].address
    port = address.rpartition(":")[2]
    units = _socket_units(at, "--system")
    processes = sorted(_processes({each.inode for each in bound}), key=lambda each: each.pid)
    process = next((each for each in processes if each.name == "systemd"), next(iter(processes), None))
    if process is None and not units:
        process = _docker_proxy(port)
    if process is not None and process.pid != 1:
        return Holder(f"{_describe(process)} listens on {at}", _stop(process, port, at))
    if process is not None or units:
        purpose = f" for {units[0]}" if units else ""
        return Holder(f"systemd (process 1) listens on {at}{purpose}", _stop_units(units))
    why = "it isn't visible here" if os.geteuid() == 0 else "only root may see which"
    how = f"-lxp | grep -F {address}" if address.startswith("/") else f"-ltnp 'sport = :{port}'"
    return Holder(
        f"a process of the user {_user(bound[0].uid)} listens on {at}; {why}", f"To see it: sudo ss {how}"
    )


def _describe(process: Process) -> str:
    details = [f"process {process.pid}", f"user {_user(process.uid)}"]
    if process.unit:
        details.append(f"unit {process.unit}")
    return f"{process.name} ({', '.join(details)})"


def _stop(process: Process, port: str, at: str) -> str:
    """How to stop a process for good."""
    if process.container or process.name in DOCKER:
        name = process.container or "NAME"
        look = (
            f"docker ps --filter publish={port} shows the container's NAME. " if not process.container else ""
        )
        return f"{look}To stop it for good: docker update --restart=no {name}; docker stop {name}"
    if process.name == "systemd":
        return _stop_units(_socket_units(at, "--user"), "systemctl --user")
    systemctl = "systemctl --user" if process.is_user_unit else "sudo systemctl"
    if process.unit.endswith(".service"):
        return _stop_units([process.unit], systemctl)
    sudo = "" if process.uid == os.geteuid() else "sudo "
    return f"To stop it: {sudo}kill {process.pid}"


def _stop_units(units: list[str], systemctl: str = "sudo systemctl") -> str:
    if not units:
        return f"To see for which unit: {systemctl.removeprefix('sudo ')} list-sockets"
    # stepaudiod's own are meant to listen again later; those of systemd-run can't be disabled
    is_kept = units[0].startswith("stepaudiod") or Path("/run/systemd/transient", units[0]).exists()
    verb = "stop" if is_kept else "disable --now"
    return f"To stop it: {systemctl} {verb} {' '.join(units)}"


def _bound(address: str) -> list[Bound]:
    """The listening sockets that keep others from an address."""
    if address.startswith("/"):
        return list(_unix_sockets({address, os.path.realpath(address)}))
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return []
    wanted = _ip_address(host)
    if wanted is None:
        return []
    found = [(held, bound) for held, bound in _tcp_sockets(int(port)) if _overlap(wanted, held)]
    # the sockets of the other family conflict only if they serve both, which /proc doesn't tell
    return [b for held, b in found if held.version == wanted.version] or [b for _, b in found]


def _ip_address(host: str) -> IPAddress | None:
    """The numeric address of a host, in brackets if it is of version 6; None if the name is unknown."""
    try:
        return _unmapped(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        with contextlib.suppress(OSError, UnicodeError):
            return ipaddress.ip_address(socket.gethostbyname(host))
    return None


def _overlap(wanted: IPAddress, held: IPAddress) -> bool:
    """Whether two sockets with the same port and these addresses exclude each other: ip(7), ipv6(7)."""
    if wanted.version == held.version:
        return wanted == held or wanted.is_unspecified or held.is_unspecified
    return any(each.version == 6 and each.is_unspecified for each in (wanted, held))


def _unmapped(address: IPAddress) -> IPAddress:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _tcp_sockets(port: int) -> Iterator[tuple[IPAddress, Bound]]:
    for name in ("tcp", "tcp6"):
        for fields in map(str.split, _table(name)):
            local, state, uid, inode = fields[1], fields[3], fields[7], fields[9]
            number, _, local_port = local.partition(":")
            if state == TCP_LISTEN and int(local_port, 16) == port:
                held = _parse_hex(number)
                text = f"[{held}]:{port}" if held.version == 6 else f"{held}:{port}"
                yield _unmapped(held), Bound(text, int(inode), int(uid))


def _parse_hex(number: str) -> IPAddress:
    """Parse an address of /proc/net/tcp: words of 32 bits, each in the processor's order of bytes."""
    words = [int(number[start : start + 8], 16) for start in range(0, len(number), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))


def _unix_sockets(paths: set[str]) -> Iterator[Bound]:
    for line in _table("unix"):
        fields = line.split(maxsplit=7)  # a path may have spaces
        # a connection that was accepted has the path of its listener
        if len(fields) == 8 and fields[7] in paths and (_is_datagram(fields) or _listens(fields)):
            uid = -1
            with contextlib.suppress(OSError):
                uid = os.stat(fields[7]).st_uid
            yield Bound(fields[7], int(fields[6]), uid)


def _is_datagram(fields: list[str]) -> bool:
    return int(fields[4], 16) == socket.SOCK_DGRAM


def _listens(fields: list[str]) -> bool:
    return bool(int(fields[3], 16) & UNIX_LISTEN)


def _table(name: str) -> list[str]:
    """The lines of a table in /proc/net; that of IPv6 may be missing."""
    with contextlib.suppress(FileNotFoundError):
        # not splitlines: a path may have other separators of lines
        return (PROC / "net" / name).read_text(errors="surrogateescape").strip().split("\n")[1:]
    return []


def _processes(inodes: set[int]) -> Iterator[Process]:
    """The processes that have one of these sockets, as far as the current user may see them."""
    links = {f"socket:[{inode}]" for inode in inodes}
    for pid in _pids():
        with contextlib.suppress(OSError):
            with os.scandir(PROC / str(pid) / "fd") as descriptors:
                is_holder = any(_link(each) in links for each in descriptors)
            if is_holder:
                yield _process(pid)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def _link(descriptor: os.DirEntry[str]) -> str:
    try:
        return os.readlink(descriptor.path)
    except FileNotFoundError:  # closed meanwhile
        return ""


def _process(pid: int) -> Process:
    folder = PROC / str(pid)
    name = _printable((folder / "comm").read_text(errors="replace").strip())
    words = _command_line(pid)
    if name.startswith("python") and "-m" in words[:-1]:
        name = f"{name} -m {words[words.index('-m') + 1]}"
    unit, is_user_unit, container = _unit(pid)
    return Process(pid, name, folder.stat().st_uid, unit, is_user_unit, container)


def _command_line(pid: int) -> list[str]:
    text = (PROC / str(pid) / "cmdline").read_text(errors="replace")
    return [_printable(word) for word in text.split("\0")]


def _docker_proxy(port: str) -> Process | None:
    """Docker's process for a published port, by its command line, which every user may read."""
    for pid in _pids():
        with contextlib.suppress(OSError):
            words = _command_line(pid)
            if Path(words[0]).name == DOCKER[0] and f"-host-port {port} " in f"{' '.join(words)} ":
                return _process(pid)
    return None


def _unit(pid: int) -> tuple[str, bool, str]:
    """The unit of a process, whether it is one of a user's manager, and the container of Docker."""
    for line in (PROC / str(pid) / "cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controllers == "name=systemd":
            parts = path.split("/")
            units = [part for part in parts if part.endswith((".service", ".scope"))]
            container = re.search(r"/docker[-/]([0-9a-f]{12})[0-9a-f]{52}", path)
            if units or container:
                is_user_unit = any(part.startswith("user@") for part in parts[:-1]) and len(units) > 1
                return units[-1] if units else "", is_user_unit, container[1] if container else ""
    return "", False, ""


def _socket_units(address: str, manager: str) -> list[str]:
    """The socket unit that listens at an address, and what it starts; empty without an answer of systemd."""
    import subprocess  # slow to import, and needed only here

    command = ["systemctl", manager, "list-sockets", "--plain", "--no-legend", "--full", "--no-pager"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    for line in done.stdout.splitlines():
        listen, _, units = line.partition(" ")
        if listen == address:
            return units.split()
    return []


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _printable(text: str) -> str:
    """Replace characters that could control a terminal: any process may choose its name."""
    return "".join(c if c.isprintable() else "?" for c in text)


def main() -> None:
    for address in sys.argv[1:]:
        if text := explain(address):
            print(text)


if __name__ == "__main__":
    main()
