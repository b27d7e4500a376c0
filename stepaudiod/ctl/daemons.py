"""Finds the daemon that a command talks to, by its sockets, without a connection, which would wake it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from stepaudiod.ctl.errors import Unreachable, WrongUsage
from stepaudiod.ctl.options import Options
from stepaudiod.ctl.systemctl import show, words
from stepaudiod.ctl.terminal import Terminal
from stepaudiod.port_holders import is_taken

DEFAULT_TCP = "127.0.0.1:7860"
LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Where a socket at all addresses is reached from this machine."""


@dataclass(frozen=True, slots=True)
class ListeningDaemon:
    """A daemon whose sockets listen.

    Attributes:
        name: of the instance; empty for the daemon without a name.
        addresses: paths of unix sockets, and `host:port`.
        serves_api: whether one of its sockets serves the whole API, not only what the page needs.
    """

    name: str
    addresses: tuple[str, ...]
    serves_api: bool

    @property
    def socket(self) -> str | None:
        """A unix socket that the current user may use."""
        return next(
            (each for each in self.addresses if each.startswith("/") and os.access(each, os.W_OK)), None
        )


def find_daemon(options: Options, terminal: Terminal) -> Options:
    """The options with the address of the daemon that serves the command.

    Where the usual unix socket can't be used, systemd is asked: for its TCP port if the user may not use the
    socket, and for the instances if nothing listens there.

    Raises:
        WrongUsage: several daemons could serve it, or the named instance doesn't listen.
    """
    if options.is_address_given:
        return options
    listens = is_taken(options.socket)
    if listens and os.access(options.socket, os.W_OK):
        return options
    daemon = None
    with suppress(Unreachable):
        daemon = _choose(listening_daemons(), options.instance, terminal)
    if daemon is not None:
        url = None if daemon.socket else url_of(daemon.addresses)
        # one that the user may not use too: the error says what to do
        unix = daemon.socket or next(filter(os.path.isabs, daemon.addresses), options.socket)
        return replace(options, socket=unix, url=url, instance=daemon.name or None)
    if listens and options.instance is None and is_taken(DEFAULT_TCP):
        return replace(options, url=f"http://{DEFAULT_TCP}")
    return options  # the connection fails, and its error says what to do


def listening_daemons() -> list[ListeningDaemon]:
    """The daemons whose sockets listen, by name; `Unreachable` if systemd can't be asked."""
    units = show("Id,ActiveState,FileDescriptorName,Listen,Triggers", "stepaudiod*.socket")
    sockets: dict[str, list[dict[str, str]]] = {}
    for unit in sorted(units, key=lambda unit: (len(unit.get("Id", "")), unit.get("Id", ""))):
        service = words(unit.get("Triggers", ""))
        if unit.get("Id", "").endswith(".socket") and unit.get("ActiveState") == "active" and service:
            name = service[0].removesuffix(".service").removeprefix("stepaudiod").removeprefix("@")
            sockets.setdefault(name, []).append(unit)
    return [
        ListeningDaemon(
            name,
            tuple(each for unit in theirs for each in addresses(unit)),
            any(unit.get("FileDescriptorName") != "page" for unit in theirs),
        )
        for name, theirs in sorted(sockets.items())
    ]


def addresses(unit: dict[str, str]) -> list[str]:
    """The addresses in the property Listen of a socket unit, such as `127.0.0.1:7860 (Stream)`."""
    return [word for word in words(unit.get("Listen", "")) if not word.startswith("(")]


def url_of(addresses: Iterable[str]) -> str | None:
    """Where a daemon with these addresses is reached over TCP, at a loopback address if it has one."""
    local = [_local(each) for each in addresses if not each.startswith(("/", "@"))]
    local.sort(key=lambda each: not each.startswith(("127.", "[::1]")))
    return f"http://{local[0]}" if local else None


def _choose(
    daemons: list[ListeningDaemon], instance: str | None, terminal: Terminal
) -> ListeningDaemon | None:
    """The named one, the one without a name, or the only instance that serves the API."""
    named = next((each for each in daemons if each.name == (instance or "")), None)
    if named is not None:
        return named
    if instance is not None:
        raise WrongUsage(
            f"The instance {instance} doesn't listen; {_list(daemons) or 'no daemon does'}. "
            f"Start it: systemctl enable --now stepaudiod@{instance}.socket."
        )
    if not daemons:
        return None
    suitable = [each for each in daemons if each.serves_api] if len(daemons) > 1 else daemons
    if len(suitable) != 1:
        raise WrongUsage(f"Choose a daemon with --instance NAME or $STEPAUDIOCTL_INSTANCE: {_list(daemons)}.")
    others = ", ".join(each.name for each in daemons if each is not suitable[0])
    more = f"; for another one ({others}): --instance NAME" if others else ""
    terminal.note(f"stepaudiod.socket is off; the instance {suitable[0].name} is used{more}")
    return suitable[0]


def _list(daemons: Iterable[ListeningDaemon]) -> str:
    named = [f"{each.name or 'the daemon without a name'} ({', '.join(each.addresses)})" for each in daemons]
    return f"these listen: {', '.join(named)}" if named else ""


def _local(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{LOOPBACK.get(host, host)}:{port}"
