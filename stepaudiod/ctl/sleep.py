"""Whether the daemon sleeps, found out without a connection: any connection would wake it."""

from __future__ import annotations

import os
import subprocess
from urllib.parse import urlsplit

from stepaudiod.ctl.errors import Unreachable
from stepaudiod.ctl.options import Options

AWAKE = ("active", "activating", "reloading")

LOCAL = {"localhost": ("127.0.0.1", "[::1]"), "127.0.0.1": ("127.0.0.1",), "::1": ("[::1]",)}


def is_asleep(options: Options) -> bool:
    """Ask systemd, which holds the socket, about the service behind it.

    Raises:
        Unreachable: systemd knows nothing of that address, or there is no systemd.
    """
    addresses = _addresses(options)
    for line in _systemctl(
        "list-sockets", "--no-legend", "--no-pager", "--full", "--plain", "stepaudiod*"
    ).splitlines():
        listen, _, service = line.split()[:3]
        if listen in addresses:
            return _systemctl("show", "--property=ActiveState", "--value", service).strip() not in AWAKE
    raise Unreachable(
        f"Whether the daemon at {options.where} sleeps can't be found out without waking it: "
        "systemd holds no such socket here. Ask without --no-wake, or: systemctl start stepaudiod.socket."
    )


def _addresses(options: Options) -> set[str]:
    """The address as systemd writes it."""
    if options.url is None:
        return {options.socket, os.path.realpath(options.socket)}
    parts = urlsplit(options.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {f"{host}:{port}" for host in LOCAL.get(parts.hostname or "", ())}


def _systemctl(*arguments: str) -> str:
    """What it prints; nothing where there is no systemd to ask."""
    try:
        return subprocess.run(
            ["systemctl", *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
