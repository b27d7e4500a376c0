"""The units: what systemd holds, and whether the daemon sleeps. Asks systemd, never a socket."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown

PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "NeedDaemonReload",
    "Listen",
    "Triggers",
    "Environment",
    "MainPID",
)
TIMEOUT_S = 10.0
SINGLE = "stepaudiod"
"""The daemon that isn't an instance of a template."""


@dataclass(frozen=True)
class Units:
    """The units of one daemon as systemd sees them.

    Attributes:
        service: the daemon's service without its suffix: `stepaudiod` or `stepaudiod@gpu1`.
        properties: of each unit by its name.
        silence: why systemd tells nothing; "" where it does.
    """

    service: str
    properties: dict[str, dict[str, str]]
    silence: str = ""

    @classmethod
    def ask(cls, service: str) -> Units:
        """Ask systemd."""
        try:
            listed = _systemctl(
                "list-units", "--all", "--plain", "--no-legend", "--full", "stepaudiod*.socket"
            )
            names = [
                f"{service}.service",
                f"{service}.socket",
                *(line.split()[0] for line in listed.splitlines()),
            ]
            shown = _systemctl("show", f"--property={','.join(PROPERTIES)}", *dict.fromkeys(names))
        except OSError as error:
            return cls(service, {}, f"systemctl can't be asked ({error.strerror})")
        except subprocess.CalledProcessError as error:
            return cls(service, {}, f"systemctl doesn't tell ({' '.join(error.stderr.split())})")
        except subprocess.TimeoutExpired:
            return cls(service, {}, f"systemctl gave no answer for {TIMEOUT_S:g} s")
        units = [_table(block) for block in shown.strip().split("\n\n")]
        return cls(service, {unit["Id"]: unit for unit in units if "Id" in unit})

    def of(self, kind: str) -> dict[str, str]:
        """The properties of the daemon's own `service` or `socket`."""
        return self.properties.get(f"{self.service}.{kind}", {})

    @property
    def is_installed(self) -> bool:
        """Whether systemd knows the service."""
        return self.of("service").get("LoadState") == "loaded"

    @property
    def is_awake(self) -> bool:
        """Whether the daemon runs, and can be asked without waking it."""
        return self.of("service").get("ActiveState") in ("active", "reloading")

    @property
    def is_off(self) -> bool:
        """Whether somebody has switched its sockets off, now and at boot."""
        socket = self.of("socket")
        return (socket.get("ActiveState"), socket.get("UnitFileState")) == ("inactive", "disabled") and not (
            self.is_awake or any(unit.get("ActiveState") == "active" for unit in self.sockets())
        )

    def listening_instances(self) -> list[str]:
        """The names of instances of the daemon's template that listen."""
        found = [
            re.fullmatch(rf"{SINGLE}@(.+)\.socket", name)
            for name, unit in self.properties.items()
            if unit.get("ActiveState") == "active"
        ]
        return sorted(match[1] for match in found if match)

    @property
    def environment(self) -> dict[str, str]:
        """What the service's unit puts into its environment."""
        words = shlex.split(self.of("service").get("Environment", ""))
        return dict(word.split("=", 1) for word in words if "=" in word)

    def sockets(self) -> list[dict[str, str]]:
        """The sockets that wake this daemon, the main one first."""
        main = f"{self.service}.socket"
        triggering = [
            unit
            for name, unit in self.properties.items()
            if name.endswith(".socket")
            and name != main
            and f"{self.service}.service" in unit.get("Triggers", "").split()
        ]
        return [unit for unit in (self.of("socket"), *triggering) if unit]

    def findings(self) -> Iterator[Finding]:
        """What there is to say."""
        if self.silence:
            yield unknown("systemd", f"{self.silence}: the units can't be looked at")
            return
        if not self.is_installed:
            yield note(
                f"{self.service}.service",
                "systemd doesn't know it: a daemon here is one that was started by hand",
            )
            return
        yield from self._about_sockets()
        yield self._about_service()
        for name, unit in self.properties.items():
            if unit.get("NeedDaemonReload") == "yes":
                yield note(name, "its file has changed since systemd read it", "systemctl daemon-reload")

    def _about_sockets(self) -> Iterator[Finding]:
        listening = [unit for unit in self.sockets() if unit.get("ActiveState") == "active"]
        for unit in self.sockets():
            name = unit["Id"]
            if unit.get("ActiveState") == "failed":
                yield problem(
                    name,
                    f"it failed ({unit.get('Result', 'no reason is known')})",
                    f"journalctl -u {name} says why; then: systemctl restart {name}",
                )
            elif unit in listening:
                yield ok(name, f"listens on {_addresses(unit.get('Listen', ''))}")
                if unit.get("UnitFileState") == "disabled":
                    yield note(
                        name,
                        "isn't enabled: after a reboot nothing listens there",
                        f"systemctl enable {name}",
                    )
        if not listening:
            yield problem(
                f"{self.service}.socket",
                "nothing listens, so nothing can wake the daemon",
                f"systemctl enable --now {self.service}.socket",
            )

    def _about_service(self) -> Finding:
        unit = self.of("service")
        name, state = unit["Id"], unit.get("ActiveState")
        if state == "failed":
            return problem(
                name, f"it failed ({unit.get('Result', 'no reason is known')})", f"journalctl -u {name} -n 50"
            )
        if unit.get("SubState") == "auto-restart":
            return problem(name, "it dies and is started again and again", f"journalctl -u {name} -n 50")
        if self.is_awake:
            return ok(name, f"awake, process {unit.get('MainPID', '?')}")
        if unit.get("SubState") == "start-pre":
            return note(
                name,
                "waits until an upgrade of its packages has ended, and so does whoever connects",
                "if none is under way: dpkg --configure -a, then /usr/lib/stepaudiod/upgrade release",
            )
        if state == "activating":
            return ok(name, "is just waking")
        return ok(name, "asleep: nothing runs until somebody connects")


def _addresses(listen: str) -> str:
    """`127.0.0.1:7860 (Stream)` in lines, as one list."""
    return ", ".join(word for word in listen.split() if not word.startswith("(")) or "no address"


def _table(block: str) -> dict[str, str]:
    """`Key=value` lines; a key that comes again (Listen) adds to the first."""
    table: dict[str, str] = {}
    for line in block.splitlines():
        key, _, value = line.partition("=")
        table[key] = f"{table[key]} {value}" if key in table else value
    return table


def _systemctl(*arguments: str) -> str:
    command = ["systemctl", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
