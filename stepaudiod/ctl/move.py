"""`stepaudioctl models move`: models in another folder, and what the daemons under systemd need for that."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from stepaudiod.config import SYSTEM_DATA, Settings, load
from stepaudiod.ctl import moving
from stepaudiod.ctl.checks.sandbox import Seen
from stepaudiod.ctl.checks.units import SINGLE, Units
from stepaudiod.ctl.errors import IncompleteModel, InsufficientSpace, NotPermitted, WrongUsage
from stepaudiod.ctl.hub.progress import Progress
from stepaudiod.ctl.privileges import make_folder, owner_of, user_name, with_rights_of
from stepaudiod.ctl.systemctl import systemctl
from stepaudiod.ctl.terminal import Terminal
from stepaudiod.errors import ConfigError
from stepaudiod.obstacles import Needed, quoted

ETC = Path("/etc/stepaudiod")
UNITS = Path("/etc/systemd/system")
SETTING = Path("conf.d/50-models.toml")
DROP_IN = "models.conf"
WRITTEN = "# Written by stepaudioctl models move.\n"
VOLATILE = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp")
"""Folders that are emptied, or that the sandbox replaces."""
NOT_IN_UNITS = re.compile(r"""[\x00-\x1f\x7f:"'\\]""")
"""Characters that a path in a unit file can't have, or only escaped."""
RESTART_TIMEOUT_S = 120.0
"""Longer than TimeoutStopSec= of the units."""
MODE = 0o750

T = TypeVar("T")


@dataclass(frozen=True)
class Daemon:
    """A daemon by its unit, such as `stepaudiod@gpu1`, its configuration, and its view of the folders."""

    service: str
    settings: Settings
    view: Seen

    def with_models(self, folder: Path) -> Daemon:
        """The daemon with another folder of models, which is only set if it isn't the usual one."""
        is_usual = folder == self.settings.data_path / "models"
        update = {"models_dir": "auto" if is_usual else folder}
        return replace(self, settings=self.settings.model_copy(update=update))

    def run(self, function: Callable[[], T]) -> T:
        """Call a function with the rights of the daemon's user."""
        account = self.view.account
        return with_rights_of(account.uid, account.gid, account.gids, function)


@dataclass(frozen=True)
class Moved:
    """The folder of the models, the size of what was moved there, and the files that were changed."""

    folder: Path
    moved_bytes: int
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Move:
    """Moves the models of this machine's daemons to the target, or points the daemons to those there."""

    target: Path
    terminal: Terminal
    etc: Path = ETC
    units: Path = UNITS

    def run(self) -> Moved:
        """Move the models, or continue an interrupted move.

        Raises:
            WrongUsage: the target can't have the models.
            NotPermitted: the current user, or the daemon's, may not use a folder.
            CtlError: the move failed; it may be run again.
        """
        _require_name(self.target)
        if os.geteuid() != 0:
            command = f"sudo stepaudioctl models move {quoted(self.target)}"
            raise NotPermitted(f"Only root may change the configuration of the daemon. Run: {command}")
        daemons = self._daemons()
        main = daemons[0]
        user = next((each for each in daemons if each.settings.data_path == self.target), None)
        if user is not None:
            self._make_data(user)
            if user.settings.models_path != main.settings.models_path:  # an instance with its own folders
                return self._allow(daemons, user)
        target = _with_models(self.target) if user is None else main.settings.models_path
        interrupted = moving.source_of(target)
        is_move = interrupted is not None or not moving.has_entries(target)
        source = main.settings.models_path  # also if a move from another folder was given up
        if target == source:
            if interrupted is None and not (is_move and moving.models_in(SYSTEM_DATA / "models")):
                return self._allow(daemons, user or main)
            source = interrupted or SYSTEM_DATA / "models"
        _require_apart(source, target)
        if is_move:
            _require_place(main, target)
            _require_way(main, target)
        _require_no_others(daemons, source, target)
        planned = [each.with_models(target) for each in daemons]
        for each in planned:  # refuses a target that a daemon can't use before anything is changed
            self._needed_lines(each)
        moved_bytes = self._copy(main, source, target) if is_move else 0
        files = [*self._set_models(planned), *self._write_drop_ins(planned)]
        self._apply(files, target)
        if moving.source_of(target) is not None:
            main.run(lambda: moving.remove_source(source, target))
        elif not is_move and moving.has_entries(source):
            self.terminal.note(f"{source} is no longer used. To delete it: sudo rm -r {quoted(source)}")
        return Moved(target, moved_bytes, tuple(files))

    def _allow(self, daemons: list[Daemon], user: Daemon) -> Moved:
        """Let the units use the folders that are configured already, and check those of one daemon."""
        files = self._write_drop_ins(daemons)
        self._apply(files, daemons[0].settings.models_path)
        now = next(each for each in self._daemons() if each.service == user.service)
        if found := now.view.first(user.settings.folders[:2]):
            raise NotPermitted(f"The units are right, but not the rights. {found}")
        return Moved(user.settings.models_path, 0, tuple(files))

    def _make_data(self, user: Daemon) -> None:
        """Create the folder of voices for the daemon's user, if it isn't in use."""
        if not moving.has_entries(self.target):
            _require_place(user, self.target)
            _make(user, self.target)

    # the daemons

    def _daemons(self) -> list[Daemon]:
        """The daemon without a name, then the instances, or the template if there are none."""
        main = self._daemon(SINGLE, self.etc / "stepaudiod.toml")
        files = sorted((self.etc / "instances").glob("*.toml"))
        if files:
            return [main, *(self._daemon(f"{SINGLE}@{file.stem}", file) for file in files)]
        template = Units.ask(f"{SINGLE}@models")
        if not isinstance(view := template.view, Seen):
            return [main]
        shared = self.etc / "instances" / SETTING
        settings = load(shared if shared.exists() else Path(os.devnull), environ=template.environment)
        return [main, Daemon(template.service, template.as_daemon(settings), view)]

    def _daemon(self, service: str, file: Path) -> Daemon:
        units = Units.ask(service)
        view = units.view
        if not isinstance(view, Seen):
            why = units.error or f"{service}.service, or its user, isn't installed here"
            raise WrongUsage(
                f"{why}. For a daemon that is started by hand, move the folder yourself, and set models_dir "
                "in its configuration."
            )
        try:
            settings = load(file if file.exists() else None, environ=units.environment)
        except ConfigError as error:
            raise WrongUsage(f"The configuration of {service} is invalid: {error}") from None
        return Daemon(service, units.as_daemon(settings), view)

    # the files

    def _copy(self, main: Daemon, source: Path, target: Path) -> int:
        """Copy the source with the rights of the daemon's user; return its size."""
        account = main.view.account
        is_own = not source.is_dir() or _belongs_to(source, account.uid)
        if not is_own and (owner := owner_of(source)) != account.uid:
            raise NotPermitted(
                f"The models in {source} belong to the user {user_name(owner)}. Give them to the daemon's "
                f"user first: sudo chown -R {account.name}: {quoted(source)}"
            )
        _make(main, target)
        if not source.is_dir():
            return 0
        try:
            return main.run(lambda: moving.copy(source, target, Progress(self.terminal)))
        except PermissionError as error:
            folder = target if Path(error.filename).is_relative_to(target) else source
            raise NotPermitted(
                f"The daemon's user may not use {error.filename}. Nothing was removed. "
                f"Run: sudo chown -R {account.name}: {quoted(folder)}"
            ) from None
        except OSError as error:
            message = f"{error.filename or target}: {error.strerror or error}. Nothing was removed"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InsufficientSpace(
                    f"{message}. Free some space, and run the same command again."
                ) from None
            raise IncompleteModel(f"{message}; run the same command again.") from None

    def _set_models(self, daemons: list[Daemon]) -> list[Path]:
        """Write `models_dir` for the daemons that need it; return the files that have changed."""
        texts = {self.etc / SETTING: "", self.etc / "instances" / SETTING: ""}
        for daemon in daemons:
            if daemon.settings.models_dir != "auto":
                path = self.etc / ("instances" if "@" in daemon.service else "") / SETTING
                folder = json.dumps(str(daemon.settings.models_dir), ensure_ascii=False)
                texts[path] = f"{WRITTEN}models_dir = {folder}\n"
        return [path for path, text in texts.items() if _write(path, text)]

    def _write_drop_ins(self, daemons: list[Daemon]) -> list[Path]:
        """Write what the units need to use the folders; return the files that have changed."""
        lines: dict[Path, list[str]] = {}
        for daemon in daemons:
            lines.setdefault(self._drop_in(daemon), []).extend(self._needed_lines(daemon))
        texts = {path: "\n".join(dict.fromkeys(found)) for path, found in lines.items()}
        return [
            path for path, text in texts.items() if _write(path, text and f"{WRITTEN}[Service]\n{text}\n")
        ]

    def _needed_lines(self, daemon: Daemon) -> list[str]:
        """What the unit needs besides what others have written, to use its folders.

        Raises:
            NotPermitted: a drop-in can't make the models readable.
        """
        with_own = self._drop_in(daemon)
        own = with_own.read_text(encoding="utf-8").splitlines() if with_own.exists() else []
        view = daemon.view.without_lines(line for line in own if line[:1] not in ("#", "[", ""))
        models, *others = daemon.settings.folders
        inner = [
            models._replace(path=Path(path, name))
            for folder in moving.models_in(models.path)
            for path, _, names in os.walk(folder)
            for name in names
        ]
        lines: list[str] = []
        for group in (others, [models], inner):  # a folder that is writable is also readable
            while (found := view.first(group)) is not None and not set(found.drop_in) <= set(lines):
                lines += found.drop_in
                view = view.with_lines(found.drop_in)
            if found is not None and group is not others:
                mend = found.advice if group is not inner else f"sudo chmod -R a+rX {quoted(models.path)}"
                raise NotPermitted(f"The daemon can't use these models: {found.problem}. To mend it: {mend}")
        return lines

    def _drop_in(self, daemon: Daemon) -> Path:
        return self.units / f"{SINGLE}{'@' if '@' in daemon.service else ''}.service.d" / DROP_IN

    def _apply(self, files: list[Path], models: Path) -> None:
        """Let running daemons use what was written, after their requests, and check that they can."""
        has_drop_in = any(path.name == DROP_IN for path in files)
        if has_drop_in:
            systemctl("daemon-reload", timeout_s=RESTART_TIMEOUT_S)
        if files:
            verb = "try-restart" if has_drop_in else "try-reload-or-restart"
            systemctl(verb, f"{SINGLE}.service", f"{SINGLE}@*.service", timeout_s=RESTART_TIMEOUT_S)
        main = self._daemons()[0]
        if main.settings.models_path != models:
            raise IncompleteModel(
                f"The daemon still uses {main.settings.models_path}: models_dir is set in "
                f"{self.etc / 'stepaudiod.toml'}, in another file in {self.etc / 'conf.d'}, or by a variable "
                "of the unit. Remove it there, and run the same command again."
            )
        if found := main.view.first(main.settings.folders[:1]):
            raise IncompleteModel(f"The daemon can't use the models yet. {found}")


def _require_name(target: Path) -> None:
    """Require an absolute path that can be in a unit file, in a folder that lasts."""
    if not target.is_absolute():
        raise WrongUsage(f"{target} isn't an absolute path. Write it as /srv/models.")
    if NOT_IN_UNITS.search(str(target)):
        raise WrongUsage(f"{str(target)!r} has characters that a unit file can't have. Choose another name.")
    there = Path(os.path.realpath(target))
    for folder in VOLATILE:
        if there.is_relative_to(folder):
            raise WrongUsage(f"Models in {folder} would be lost or hidden. Choose a folder on a disk.")
    if there == Path("/") or there.is_relative_to(ETC):
        raise WrongUsage(f"{target} can't have the models. Name a folder for them, as /srv/models.")
    if there.exists() and not there.is_dir():
        raise WrongUsage(f"{target} isn't a folder.")


def _with_models(folder: Path) -> Path:
    """The folder, or `models` in it if only that has models, as in a former `data_dir`."""
    inner = folder / "models"
    is_used_as_it_is = moving.models_in(folder) or moving.source_of(folder) is not None
    return inner if not is_used_as_it_is and moving.models_in(inner) else folder


def _require_apart(source: Path, target: Path) -> None:
    if _overlap(source, target):
        raise WrongUsage(
            f"The models are in {source}, and can't be moved to {target}: one has the other in it."
        )
    if moving.has_entries(target) and moving.source_of(target) is None and not moving.models_in(target):
        raise WrongUsage(
            f"{target} isn't empty, and has no models. Name a new folder in it: {quoted(target / 'models')}"
        )


def _overlap(one: Path, other: Path) -> bool:
    """Whether one folder is the other, or in it."""
    one, other = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return one.is_relative_to(other) or other.is_relative_to(one)


def _require_no_others(daemons: list[Daemon], source: Path, target: Path) -> None:
    """Require that no daemon has other files there, and no instance has models of its own."""
    for daemon in daemons:
        for used in (daemon.settings.voices_path, daemon.settings.cache_path):
            if _overlap(target, used):
                raise WrongUsage(f"{target} can't have the models: {daemon.service} uses {used}.")
    for daemon in daemons[1:]:
        theirs = daemon.settings.models_path
        if theirs not in (source, target) and moving.models_in(theirs):
            raise WrongUsage(
                f"{daemon.service} has models of its own in {theirs}, and all daemons would use {target}. "
                "Move those away first, or set models_dir for each daemon by hand."
            )


def _require_place(daemon: Daemon, target: Path) -> None:
    """Require a folder, or the place of a new one, that only root and the daemon's user control.

    In a folder of another user it must be the daemon's user's already: root creates nothing there.
    """
    owner, account = owner_of(target), daemon.view.account
    if owner not in (0, account.uid) and not _belongs_to(target, account.uid):
        raise NotPermitted(
            f"The user {user_name(owner)} can change {target}, so root moves nothing there. Choose a folder "
            "that only root can change; or create this one for the daemon's user, and run the same command "
            f"again: sudo install -d -m 750 -o {account.name} {quoted(target)}"
        )


def _require_way(daemon: Daemon, target: Path) -> None:
    """Require that the daemon's user may enter the folders on the way, outside of the sandbox too."""
    if found := Seen(daemon.view.account).first([Needed(target, os.F_OK, target, "data")]):
        raise NotPermitted(f"The models are moved with the rights of the daemon's user. {found}")


def _belongs_to(folder: Path, uid: int) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid


def _make(daemon: Daemon, folder: Path) -> None:
    """Create the folder for the daemon's user, or give that user one of root's."""
    account = daemon.view.account
    if not _belongs_to(folder, account.uid):
        make_folder(folder, account.uid, account.gid, MODE)


def _write(path: Path, text: str) -> bool:
    """Write a file as a whole, or remove it if the text is empty; return whether this changed it."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if text == before:
        return False
    if not text:
        path.unlink()
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with open(number, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(number, 0o644)
        os.fsync(number)
    os.replace(name, path)
    return True
