"""The daemon's units as systemd sees them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepaudiod.config import SYSTEM_CACHE, SYSTEM_DATA, Settings
from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.permissions import Account
from stepaudiod.ctl.checks.ports import unit_findings
from stepaudiod.ctl.checks.sandbox import DIRECTORIES, Seen
from stepaudiod.ctl.checks.sandbox import PROPERTIES as SANDBOX
from stepaudiod.ctl.daemons import addresses
from stepaudiod.ctl.errors import Unreachable
from stepaudiod.ctl.systemctl import TABLE, show, systemctl, words
from stepaudiod.obstacles import Own, quoted

PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,Result,UnitFileState,"
    f"NeedDaemonReload,Listen,Triggers,Environment,MainPID,{SANDBOX}"
)
SINGLE = "stepaudiod"
"""The daemon that isn't an instance of a template."""


@dataclass(frozen=True)
class Units:
    """The units of one daemon, such as `stepaudiod@gpu1`. `error` says why systemd couldn't be asked."""

    service: str
    properties: dict[str, dict[str, str]]
    error: str = ""

    @classmethod
    def ask(cls, service: str) -> Units:
        try:
            listed = systemctl("list-units", "--all", *TABLE, "stepaudiod*.socket").splitlines()
            names = [f"{service}.service", f"{service}.socket", *(line.split()[0] for line in listed)]
            units = show(PROPERTIES, *dict.fromkeys(names))
        except Unreachable as error:
            return cls(service, {}, error.message)
        return cls(service, {unit["Id"]: unit for unit in units if "Id" in unit})

    def of(self, kind: str) -> dict[str, str]:
        return self.properties.get(f"{self.service}.{kind}", {})

    @property
    def is_installed(self) -> bool:
        return self.of("service").get("LoadState") == "loaded"

    @property
    def is_awake(self) -> bool:
        return self.of("service").get("ActiveState") in ("active", "reloading")

    @property
    def is_off(self) -> bool:
        """Whether its sockets are stopped and disabled."""
        socket = self.of("socket")
        return (socket.get("ActiveState"), socket.get("UnitFileState")) == ("inactive", "disabled") and not (
            self.is_awake or any(unit.get("ActiveState") == "active" for unit in self.sockets())
        )

    def instances(self) -> list[str]:
        """The instances that listen, and those whose sockets failed to."""
        found = [
            re.fullmatch(rf"{SINGLE}@(.+)\.socket", name)
            for name, unit in self.properties.items()
            if unit.get("ActiveState") in ("active", "failed")
        ]
        return sorted(match[1] for match in found if match)

    @property
    def environment(self) -> dict[str, str]:
        words = shlex.split(self.of("service").get("Environment", ""))
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def _is_for_system(self) -> bool:
        """Whether the daemon is the system's, which is assumed where systemd doesn't answer this user."""
        return self.is_installed or (bool(self.error) and SYSTEM_DATA.exists())

    @property
    def view(self) -> Own | Seen:
        """The daemon's view of the file system; the current user's if it has no unit, or no account."""
        account = Account.of_unit(self.of("service")) if self._is_for_system else None
        return Own() if account is None else Seen.of(account, self.of("service"))

    def as_daemon(self, settings: Settings) -> Settings:
        """The settings with the unit's folders: "auto" is another one for it than for the current user."""
        if not self._is_for_system:
            return settings
        folders = {"data_dir": SYSTEM_DATA, "cache_dir": SYSTEM_CACHE}
        return settings.model_copy(
            update={name: path for name, path in folders.items() if getattr(settings, name) == "auto"}
        )

    def sockets(self) -> list[dict[str, str]]:
        """The socket units that start this daemon, the main one first."""
        main = f"{self.service}.socket"
        triggering = [
            unit
            for name, unit in self.properties.items()
            if name.endswith(".socket")
            and name != main
            and f"{self.service}.service" in words(unit.get("Triggers", ""))
        ]
        return [unit for unit in (self.of("socket"), *triggering) if unit]

    @property
    def listening_addresses(self) -> list[str]:
        return [a for unit in self.sockets() if unit.get("ActiveState") == "active" for a in addresses(unit)]

    def findings(self) -> Iterator[Finding]:
        if self.error:
            yield unknown("systemd", f"{self.error}: the units can't be checked")
            return
        if not self.is_installed:
            yield note(f"{self.service}.service", "no such unit: a daemon here must be started by hand")
            return
        yield from self._socket_findings()
        yield self._service_finding()
        yield from self._directory_findings()
        for name, unit in self.properties.items():
            if unit.get("NeedDaemonReload") == "yes":
                yield note(name, "the file has changed since systemd read it", "systemctl daemon-reload")

    def _socket_findings(self) -> Iterator[Finding]:
        listening = [unit for unit in self.sockets() if unit.get("ActiveState") == "active"]
        for unit in self.sockets():
            name = unit["Id"]
            if unit.get("ActiveState") == "failed":
                yield problem(
                    name,
                    f"it failed ({unit.get('Result', 'unknown reason')})",
                    f"journalctl -u {name} says why; then: systemctl restart {name}",
                )
                yield from unit_findings(unit)
            elif unit in listening:
                yield ok(name, f"listens on {', '.join(addresses(unit)) or 'no address'}")
                if unit.get("UnitFileState") == "disabled":
                    yield note(
                        name,
                        "isn't enabled: after a reboot nothing listens there",
                        f"systemctl enable {name}",
                    )
        if not listening:
            if self.of("socket").get("ActiveState") == "inactive":
                yield from unit_findings(self.of("socket"))
            yield problem(
                f"{self.service}.socket",
                "nothing listens, so a connection can't wake the daemon",
                f"systemctl enable --now {self.service}.socket",
            )

    def _directory_findings(self) -> Iterator[Finding]:
        """Links in the place of folders that systemd creates, with which it doesn't start the daemon."""
        for name, parent in DIRECTORIES.items():
            for word in self.of("service").get(name, "").split():
                path = Path(parent, word.split(":")[0])
                if path.is_symlink():
                    there, here = quoted(Path(os.path.realpath(path))), quoted(path)
                    yield problem(
                        str(path),
                        f"is a link to {os.readlink(path)}; systemd takes none for {name}=, "
                        "and starts no daemon",
                        f"sudo rm {here} && sudo mkdir {here} && sudo mount --bind {there} {here}, and the "
                        "same mount in /etc/fstab",
                    )

    def _service_finding(self) -> Finding:
        unit = self.of("service")
        name, state = unit["Id"], unit.get("ActiveState")
        if state == "failed":
            return problem(
                name, f"it failed ({unit.get('Result', 'unknown reason')})", f"journalctl -u {name} -n 50"
            )
        if unit.get("SubState") == "auto-restart":
            return problem(name, "it fails and is restarted again and again", f"journalctl -u {name} -n 50")
        if self.is_awake:
            return ok(name, f"awake, process {unit.get('MainPID', '?')}")
        if unit.get("SubState") == "start-pre":
            return note(
                name,
                "waits until an upgrade of its packages has ended; clients wait too",
                "if no upgrade is running: dpkg --configure -a, then /usr/lib/stepaudiod/upgrade release",
            )
        if state == "activating":
            return ok(name, "starting")
        return ok(name, "asleep: nothing runs until a client connects")
