"""The interface to systemd: sockets, notifications, the journal. Works without systemd too.

systemd-python and sdnotify are used where they are installed (the extra `systemd`). Elsewhere the functions
and classes marked "of the standard library" replace them: systemd-python is built by a compiler.

Sources: sd_listen_fds(3), sd_notify(3), systemd.journal-fields(7), https://systemd.io/JOURNAL_NATIVE_PROTOCOL.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import stat
import sys
import time
from typing import Literal, NamedTuple

try:
    import sdnotify
except ImportError:
    sdnotify = None

from stepaudiod.errors import AddressTaken

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Length of the kernel's queue of connections; limited to net.core.somaxconn."""

FIRST_FD = 3
"""The first descriptor that systemd passes: SD_LISTEN_FDS_START."""

JOURNAL = "/run/systemd/journal/socket"

PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
    sys.maxsize: 1,
}
"""The journal's priority of records up to each level of Python's."""

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
    try:
        from systemd.daemon import listen_fds_with_names
    except ImportError:
        named = _listen_fds_with_names()
    else:
        named = listen_fds_with_names(unset_environment=True)
    roles: dict[str, Role] = {"api": "api", "page": "page"}  # by FileDescriptorName=
    sockets = sorted(named.items())
    return [Listener(roles.get(name, "http"), socket.socket(fileno=fd)) for fd, name in sockets]


def _listen_fds_with_names() -> dict[int, str]:
    """sd_listen_fds_with_names(3) of the standard library: names by descriptor; the variables are unset.

    Raises:
        ValueError: the variables contradict each other.
        OSError: a descriptor isn't open.
    """
    _, size, joined = [os.environ.pop(f"LISTEN_{name}", None) for name in ("PID", "FDS", "FDNAMES")]
    if not size or not size.isdecimal():
        raise ValueError(f"LISTEN_FDS must be the number of sockets, found {size!r}")
    names = ["unknown"] * int(size) if joined is None else joined.split(":")
    if len(names) != int(size):
        raise ValueError(f"LISTEN_FDNAMES must have {size} names, one for each socket, found {joined!r}")
    for fd in range(FIRST_FD, FIRST_FD + len(names)):
        os.set_inheritable(fd, False)
    return dict(enumerate(names, FIRST_FD))


def bind(address: str) -> socket.socket:
    """Listen at `host:port`, `[v6]:port` or a unix socket's path.

    Raises:
        AddressTaken: another process listens there.
        OSError: the address can't be bound for another reason.
        ValueError: it isn't an address.
    """
    if address.startswith("/"):
        return _bind_unix(address)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} isn't address:port, [v6 address]:port or the path of a socket")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise _taken(address) from None


def _taken(address: str) -> AddressTaken:
    from stepaudiod.port_holders import explain  # needed only here, and the front starts often

    return AddressTaken(
        explain(address)
        or f"{address} is taken, though no process listens there. Wait a moment, and try again."
    )


def _bind_unix(path: str) -> socket.socket:
    """Bind a unix socket, replacing a socket file only if no process listens on it."""
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
        raise _taken(path)


class Notifier:
    """sd_notify(3): what `systemctl status` shows and the manager waits for. Silent without systemd."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier() if sdnotify else _NotifySocket()
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


class _NotifySocket:
    """sdnotify's class of the standard library: silent without a manager, or if the manager has gone."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # an abstract socket
            self._address = "\0" + self._address[1:]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def notify(self, state: str) -> None:
        """Send the state, whose characters are bytes, as for sdnotify."""
        if self._address:
            with contextlib.suppress(OSError):
                self._socket.sendto(state.encode("latin-1"), self._address)


def journal_connected() -> bool:
    """Whether stderr is the journal's socket, by $JOURNAL_STREAM: systemd.exec(5)."""
    try:
        device, inode = os.environ["JOURNAL_STREAM"].split(":")
        stat = os.fstat(2)
    except (KeyError, ValueError, OSError):
        return False
    return (stat.st_dev, stat.st_ino) == (int(device), int(inode))


class _JournalHandler(logging.Handler):
    """systemd.journal.JournalHandler of the standard library: the same fields, by the native protocol."""

    def __init__(self, **fields: str) -> None:
        super().__init__()
        self._fields = fields
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            own = {name: value for name, value in vars(record).items() if name.isupper()}  # of `extra`
            fields = {
                "MESSAGE": self.format(record),
                "PRIORITY": next(p for level, p in PRIORITIES.items() if record.levelno <= level),
                "LOGGER": record.name,
                "THREAD_NAME": record.threadName,
                "PROCESS_NAME": record.processName,
                "CODE_FILE": record.pathname,
                "CODE_LINE": record.lineno,
                "CODE_FUNC": record.funcName,
                **({"EXCEPTION_TEXT": record.exc_text} if record.exc_text else {}),
                **self._fields,
                **own,
            }
            self._send(b"".join(_journal_field(name, str(value)) for name, value in fields.items()))
        except Exception:
            self.handleError(record)

    def _send(self, entry: bytes) -> None:
        """Send one entry: a datagram, or, if that would be too large, a sealed file in memory."""
        try:
            self._socket.sendto(entry, JOURNAL)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            with open(os.memfd_create("entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
                file.write(entry)
                file.flush()
                seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
                fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
                descriptor = file.fileno().to_bytes(4, sys.byteorder)
                control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)]
                self._socket.sendmsg([b""], control, 0, JOURNAL)


def _journal_field(name: str, value: str) -> bytes:
    """One field; a value of several lines has its length in front."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


def start_logging(level: str) -> None:
    """Log to the journal with fields if stderr goes there, otherwise as lines on stderr."""
    handler: logging.Handler
    if journal_connected():
        try:
            from systemd.journal import JournalHandler
        except ImportError:
            JournalHandler = _JournalHandler
        handler = JournalHandler(SYSLOG_IDENTIFIER="stepaudiod")
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # it warns of every form with trailing bytes, which any client can send
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
