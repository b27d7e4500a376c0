"""Whether the daemon sleeps, found out without a connection: any connection would wake it."""

from __future__ import annotations

import os
import subprocess
from urllib.parse import urlsplit

from stepaudiod.ctl.errors import Unreachable
from stepaudiod.ctl.options import Options

AWAKE = ("active", "activating", "reloading")
PLAIN = ("--no-legend", "--no-pager", "--full", "--plain")
TIMEOUT_S = 10.0

LOCAL = {"localhost": ("127.0.0.1", "[::1]"), "127.0.0.1": ("127.0.0.1",), "::1": ("[::1]",)}


def is_asleep(options: Options) -> bool:
    """Ask systemd, which holds the socket, about the service behind it.

    Raises:
        Unreachable: systemd knows nothing of that address, or can't be asked.
    """
    addresses = _addresses(options)
    try:
        for line in _systemctl("list-sockets", *PLAIN, "stepaudiod*").splitlines():
            listen, _, service = line.split()[:3]
            if listen in addresses:
                return _systemctl("show", "--property=ActiveState", "--value", service).strip() not in AWAKE
        why = "systemd holds no such socket here. Is stepaudiod.socket active?"
    except OSError as error:
        why = f"systemctl can't be asked ({error.strerror})."
    except subprocess.CalledProcessError as error:
        why = f"systemctl doesn't tell ({error.stderr.strip()})."
    except subprocess.TimeoutExpired as error:
        why = f"systemctl gave no answer for {error.timeout:g} s."
    raise Unreachable(
        f"Whether the daemon at {options.where} sleeps can't be found out without waking it: {why} "
        "Without --no-wake it is asked, and wakes."
    )


def _addresses(options: Options) -> set[str]:
    """The address as systemd writes it."""
    if options.url is None:
        return {options.socket, os.path.realpath(options.socket)}
    parts = urlsplit(options.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {f"{host}:{port}" for host in LOCAL.get(parts.hostname or "", ())}


def _systemctl(*arguments: str) -> str:
    """What it prints."""
    command = ["systemctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
