"""The file system as a unit's daemon sees it: its user's rights and its sandbox, read from outside.

The settings are those of systemd.exec(5), as `systemctl show` reports them. The longest path decides.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from stepaudiod.ctl.checks.permissions import Account
from stepaudiod.ctl.privileges import with_rights_of
from stepaudiod.obstacles import (
    HOMES,
    MOUNTED,
    SCRATCH,
    Needed,
    Obstacle,
    find_obstacle,
    is_mounted_read_only,
)

PROPERTIES = (
    "ProtectHome,ProtectSystem,PrivateTmp,ReadWritePaths,ReadOnlyPaths,InaccessiblePaths,BindPaths,"
    "BindReadOnlyPaths,TemporaryFileSystem,StateDirectory,CacheDirectory,LogsDirectory,RuntimeDirectory,"
    "User,Group,SupplementaryGroups"
)
DIRECTORIES = {
    "StateDirectory": "/var/lib",
    "CacheDirectory": "/var/cache",
    "LogsDirectory": "/var/log",
    "RuntimeDirectory": "/run",
}
SYSTEM = ("/usr", "/boot", "/efi")
READ_ONLY_SYSTEM = {"yes": SYSTEM, "full": (*SYSTEM, "/etc"), "strict": ("/",)}
"""The folders of ProtectSystem=."""
KERNEL = ("/dev", "/proc", "/sys")
MISSING = -1
"""In the place of a descriptor."""

Kind = Literal["inaccessible", "bind", "empty", "read-only", "writable"]
KINDS: tuple[Kind, ...] = ("inaccessible", "bind", "empty", "read-only", "writable")
"""The first one applies if several settings have the same path."""


class Rule(NamedTuple):
    """What a setting does to a path; `source` is what a bind shows there."""

    path: Path
    kind: Kind
    setting: str
    source: Path | None = None
    is_read_only: bool = False


@dataclass(frozen=True)
class Seen:
    """The view of a daemon's process: `obstacles.View`."""

    account: Account
    rules: tuple[Rule, ...] = ()
    _sources: dict[Path, int | None] = field(default_factory=dict)
    """What binds show, opened by root, since the account may not be allowed on the way; None is missing."""

    @classmethod
    def of(cls, account: Account, properties: Mapping[str, str]) -> Seen:
        return cls(account, tuple(_rules(properties)))

    def with_lines(self, lines: Iterable[str]) -> Seen:
        """The view with more lines in the unit's section [Service]."""
        added = _properties(lines)
        kept = [
            rule
            for rule in self.rules
            if "ProtectHome" not in added or not rule.setting.startswith("ProtectHome=")
        ]
        return Seen(self.account, (*kept, *_rules(added)))

    def without_lines(self, lines: Iterable[str]) -> Seen:
        """The view without these lines, of which `ProtectHome=tmpfs` replaced `ProtectHome=yes`."""
        removed = _properties(lines)
        gone = set(_rules(removed))
        restored = _rules({"ProtectHome": "yes"}) if "ProtectHome" in removed else ()
        return Seen(self.account, (*(rule for rule in self.rules if rule not in gone), *restored))

    @property
    def user(self) -> str:
        return self.account.name

    def first(self, needed: Iterable[Needed]) -> Obstacle | None:
        """The first obstacle on the way to one of these paths.

        As root it is found out with the account's rights, else from owners and modes.

        Raises:
            PermissionError: the current user may not look.
        """
        wanted = list(needed)

        def look() -> Obstacle | None:
            return next((found for each in wanted if (found := find_obstacle(each, self))), None)

        if os.geteuid() != 0:
            return look()
        for rule in self.rules:
            if rule.source is not None and rule.source not in self._sources:
                self._sources[rule.source] = _opened(rule.source)
        try:
            return with_rights_of(self.account.uid, self.account.gid, self.account.gids, look)
        finally:
            for number in self._sources.values():
                if number is not None:
                    os.close(number)
            self._sources.clear()

    def status(self, path: Path) -> os.stat_result | None:
        place = self._place(path)
        if place is None:
            return os.stat("/")
        number, inner = place
        if number == MISSING:
            return None
        try:
            if number is not None and inner == Path():
                return os.fstat(number)  # a look at `.` would take the right to enter it
            return os.stat(inner, dir_fd=number)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def has(self, path: Path, want: int) -> bool:
        place = self._place(path)
        if place is None:
            return not want & os.W_OK
        if os.geteuid() == self.account.uid:
            return os.access(place[1], want, dir_fd=place[0], effective_ids=True)
        found = self.status(path)
        return found is not None and self.account.has(found, want)

    def hides(self, path: Path) -> str:
        for rule in self._covering(path, "inaccessible"):
            return rule.setting
        for rule in self._covering(path, "bind", "empty"):
            is_shown = rule.kind == "bind" or path == rule.path or self._leads_to_a_bind(path)
            return "" if is_shown else rule.setting
        return ""

    def is_read_only(self, path: Path) -> str:
        place = self._place(path)
        if place is not None and place[0] is None and is_mounted_read_only(place[1]):
            return MOUNTED
        for rule in self._covering(path, "bind", "empty", "read-only", "writable"):
            return rule.setting if rule.is_read_only else ""
        return ""

    def _covering(self, path: Path, *kinds: Kind) -> Iterator[Rule]:
        """The rules of these kinds for a path, the one that applies first."""
        found = (rule for rule in self.rules if rule.kind in kinds and path.is_relative_to(rule.path))
        yield from sorted(found, key=lambda rule: (-len(rule.path.parts), KINDS.index(rule.kind)))

    def _leads_to_a_bind(self, path: Path) -> bool:
        return any(rule.kind == "bind" and rule.path.is_relative_to(path) for rule in self.rules)

    def _place(self, path: Path) -> tuple[int | None, Path] | None:
        """Where to look for what the daemon sees at a path; None is an empty folder of the sandbox."""
        for rule in self._covering(path, "bind", "empty"):
            if rule.source is None:
                return None
            inner = path.relative_to(rule.path)
            if rule.source not in self._sources:
                return None, rule.source / inner
            number = self._sources[rule.source]
            return MISSING if number is None else number, inner
        return None, path


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _properties(lines: Iterable[str]) -> dict[str, str]:
    """Lines of a unit file as `systemctl show` would report them, one path a line."""
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition("=")
        value = value.strip('"').replace("%%", "%")
        found[name] = f"{found[name]} {value}" if name in found else value
    return found


def _rules(properties: Mapping[str, str]) -> Iterator[Rule]:
    home, system = properties.get("ProtectHome", "no"), properties.get("ProtectSystem", "no")
    setting = f"ProtectHome={home}"
    for folder in HOMES:
        if home == "yes":
            yield Rule(Path(folder), "inaccessible", setting)
        elif home == "tmpfs":
            yield Rule(Path(folder), "empty", setting)
        elif home == "read-only":
            yield Rule(Path(folder), "read-only", setting, is_read_only=True)
    for folder in READ_ONLY_SYSTEM.get(system, ()):
        yield Rule(Path(folder), "read-only", f"ProtectSystem={system}", is_read_only=True)
    for folder in KERNEL if system == "strict" else ():
        yield Rule(Path(folder), "writable", "")
    if properties.get("PrivateTmp", "no") not in ("no", ""):
        for folder in SCRATCH:
            yield Rule(Path(folder), "empty", "PrivateTmp=yes")
    for name, parent in DIRECTORIES.items():
        for word in properties.get(name, "").split():
            yield Rule(Path(parent, word.split(":")[0]), "writable", f"{name}=")
    yield from _listed(properties)


def _listed(properties: Mapping[str, str]) -> Iterator[Rule]:
    """The settings that list paths."""
    for name, kind, is_read_only in (
        ("ReadWritePaths", "writable", False),
        ("ReadOnlyPaths", "read-only", True),
        ("InaccessiblePaths", "inaccessible", False),
    ):
        for path, _ in _paths(properties.get(name, "")):
            yield Rule(path, kind, f"{name}={path}", is_read_only=is_read_only)  # type: ignore[arg-type]
    for path, _ in _paths(properties.get("TemporaryFileSystem", "")):
        yield Rule(path, "empty", f"TemporaryFileSystem={path}")
    for name in ("BindPaths", "BindReadOnlyPaths"):
        for source, more in _paths(properties.get(name, "")):
            target = Path(os.path.realpath(more)) if more.startswith("/") else source
            yield Rule(target, "bind", f"{name}={target}", source, name == "BindReadOnlyPaths")


def _paths(value: str) -> Iterator[tuple[Path, str]]:
    """Split a list of paths, each with what follows its first colon, up to the next.

    Some properties are quoted where a path has a space, and others are not.
    """
    words = shlex.split(value) if '"' in value else re.split(r"\s+(?=[-+]{0,2}/)", value.strip())
    for word in words:
        if word:
            first, _, rest = word.lstrip("-+").partition(":")
            yield Path(os.path.realpath(first)), rest.split(":")[0]
