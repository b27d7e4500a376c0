"""Asks systemd about units with systemctl(1). Unlike a connection, this doesn't wake the daemon."""

from __future__ import annotations

import os
import shlex
import subprocess
from urllib.parse import urlsplit

from stepaudiod.ctl.errors import Unreachable
from stepaudiod.ctl.options import Options

AWAKE = ("active", "activating", "reloading")
TABLE = ("--no-legend", "--full", "--plain")
TIMEOUT_S = 10.0

LOCAL = {
    "localhost": ("127.0.0.1", "[::1]", "0.0.0.0", "[::]"),
    "127.0.0.1": ("127.0.0.1", "0.0.0.0", "[::]"),
    "::1": ("[::1]", "[::]"),
}
"""The addresses at which a socket serves clients of this machine."""


def systemctl(*arguments: str, timeout_s: float = TIMEOUT_S) -> str:
    """Return systemctl's output; `Unreachable` has only the reason as its message."""
    command = ["systemctl", *arguments, "--no-pager"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True).stdout
    except OSError as error:
        raise Unreachable(f"systemctl can't be run ({error.strerror})") from None
    except subprocess.CalledProcessError as error:
        raise Unreachable(f"systemctl failed ({' '.join(error.stderr.split())})") from None
    except subprocess.TimeoutExpired:
        raise Unreachable(f"systemctl gave no answer for {timeout_s:g} s") from None


def show(properties: str, *units: str) -> list[dict[str, str]]:
    """The properties of units; the values of a repeated one (Listen) are joined."""
    shown = systemctl("show", f"--property={properties}", *units)
    return [_table(block) for block in shown.strip().split("\n\n")]


def words(value: str) -> list[str]:
    """The words of a property such as Triggers or Listen, which are quoted and escaped as in a shell."""
    return shlex.split(value)


def _table(block: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for line in block.splitlines():
        key, _, value = line.partition("=")
        table[key] = f"{table[key]} {value}" if key in table else value
    return table


def is_asleep(options: Options) -> bool:
    """Whether systemd listens at the daemon's address and no daemon runs; `Unreachable` if unknown."""
    addresses = _addresses(options)
    try:
        for line in systemctl("list-sockets", *TABLE, "stepaudiod*").splitlines():
            listen, _, service = line.split()[:3]
            if listen in addresses:
                return systemctl("show", "--property=ActiveState", "--value", service).strip() not in AWAKE
        reason = "systemd has no such socket here. Is stepaudiod.socket active?"
    except Unreachable as error:
        reason = f"{error}."
    raise Unreachable(
        f"Can't find out whether the daemon at {options.where} sleeps without waking it: {reason} "
        "To ask the daemon, which wakes it, leave out --no-wake."
    )


def _addresses(options: Options) -> set[str]:
    """The address as systemd writes it."""
    if options.url is None:
        return {options.socket, os.path.realpath(options.socket)}
    parts = urlsplit(options.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {f"{host}:{port}" for host in LOCAL.get(parts.hostname or "", ())}
