"""The interface to systemd: sockets, notifications, the journal. Works without systemd too.

Sources: sd_listen_fds(3), sd_notify(3), systemd.journal-fields(7).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import stat
import time
from typing import Literal, NamedTuple

import sdnotify

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Length of the kernel's queue of connections; limited to net.core.somaxconn."""

Role = Literal["http", "api", "page"]
"""What a socket serves: the page and the API, the API only, the page and the API calls that it needs."""

Reach = Literal["unix", "loopback", "network"]
"""From where a socket can be reached: its file, this machine, anywhere."""


class Listener(NamedTuple):
    role: Role
    socket: socket.socket

    @property
    def reach(self) -> Reach:
        """Derived from the bound address; any address not known to be local counts as network."""
        if self.socket.family == socket.AF_UNIX:
            return "unix"
        if self.socket.family in (socket.AF_INET, socket.AF_INET6):
            address = ipaddress.ip_address(self.socket.getsockname()[0].partition("%")[0])
            mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
            if (mapped or address).is_loopback:
                return "loopback"
        return "network"

    def __str__(self) -> str:
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_INET6:
            return f"[{name[0]}]:{name[1]}"
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)


def activated() -> bool:
    """Whether systemd passed sockets to this process."""
    return os.environ.get("LISTEN_PID") == str(os.getpid())


def activated_listeners() -> list[Listener]:
    """The sockets that systemd passed, in its order; those of one unit share a name."""
    from systemd.daemon import listen_fds_with_names

    named: dict[int, str] = listen_fds_with_names(unset_environment=True)
    roles: dict[str, Role] = {"api": "api", "page": "page"}  # by FileDescriptorName=
    sockets = sorted(named.items())
    return [Listener(roles.get(name, "http"), socket.socket(fileno=fd)) for fd, name in sockets]


def bind(address: str) -> socket.socket:
    """Listen at `host:port`, `[v6]:port` or a unix socket's path; anything else is a ValueError."""
    if address.startswith("/"):
        return _bind_unix(address)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} isn't address:port, [v6 address]:port or the path of a socket")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)


def _bind_unix(path: str) -> socket.socket:
    """Bind a unix socket, replacing a socket file only if no process listens on it, else OSError."""
    if os.path.lexists(path):
        _remove_stale_socket(path)
    with contextlib.ExitStack() as on_error:
        listener = on_error.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(path)
        os.chmod(path, 0o660)
        listener.listen(BACKLOG)
        on_error.pop_all()
    return listener


def _remove_stale_socket(path: str) -> None:
    """Remove the socket file of a daemon that was killed; nothing else."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(
            f"{path} exists and isn't a socket, so it is not replaced. Set another path in [listen], or "
            "move that file away"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a listener with a full queue would block connect(2)
        answer = probe.connect_ex(path)
    if answer == errno.ECONNREFUSED:
        os.unlink(path)
    elif answer in (errno.EACCES, errno.EPERM):
        raise OSError(f"{path} is a socket of another user. Set another path in [listen]")
    elif answer != errno.ENOENT:
        raise OSError(f"{path} is in use by another process. Stop it, or set another path in [listen]")


class Notifier:
    """sd_notify(3): what `systemctl status` shows and the manager waits for. Silent without systemd."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._status = ""
        self.has_manager = "NOTIFY_SOCKET" in os.environ
        """Whether a service manager starts the daemon again for the next connection."""
        is_watched = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = os.environ.get("WATCHDOG_USEC") if is_watched else None
        self.watchdog_s = int(usec) / 1e6 if usec else None
        """The manager's watchdog timeout in seconds; None if it has none."""

    def ready(self) -> None:
        self._notifier.notify("READY=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows; sent only when it changes."""
        if text != self._status:
            self._status = text
            # sdnotify encodes as Latin-1, and systemd expects UTF-8
            self._notifier.notify(f"STATUS={text}".encode().decode("latin-1"))

    def watchdog(self) -> None:
        self._notifier.notify("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        self._notifier.notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def reloading(self) -> None:
        now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={now_usec}")

    def stopping(self) -> None:
        self._notifier.notify("STOPPING=1")


def journal_connected() -> bool:
    """Whether stderr is the journal's socket, by $JOURNAL_STREAM: systemd.exec(5)."""
    try:
        device, inode = os.environ["JOURNAL_STREAM"].split(":")
        stat = os.fstat(2)
    except (KeyError, ValueError, OSError):
        return False
    return (stat.st_dev, stat.st_ino) == (int(device), int(inode))


def start_logging(level: str) -> None:
    """Log to the journal with fields if stderr goes there, otherwise as lines on stderr."""
    handler: logging.Handler
    if journal_connected():
        from systemd.journal import JournalHandler

        handler = JournalHandler(SYSLOG_IDENTIFIER="stepaudiod")
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # it warns of every form with trailing bytes, which any client can send
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
