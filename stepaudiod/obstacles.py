"""What keeps a user or a unit's sandbox from a folder, and the command that mends it.

The daemon looks at itself, with access(2) and its own mounts: `Own`. Another process gives an account and the
settings of the unit; see `View`. The sandbox is that of systemd.exec(5).
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

READ = os.R_OK | os.X_OK
"""The rights that reading a folder takes."""
WRITE = os.R_OK | os.W_OK | os.X_OK
HOMES = ("/home", "/root", "/run/user")
"""The folders of ProtectHome=."""
SCRATCH = ("/tmp", "/var/tmp")
"""The folders of PrivateTmp=."""
MOUNTED = "its file system is mounted so"
Purpose = Literal["data", "cache", "configuration"]
MAX_LINKS = 40
"""The kernel's limit: path_resolution(7)."""


class Obstacle(NamedTuple):
    """The first folder on the way that stops, the problem with it, and a command as advice.

    `drop_in` is what the unit needs, in lines of its section [Service], if its sandbox is the reason.
    """

    folder: Path
    problem: str
    advice: str
    drop_in: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.problem[0].upper()}{self.problem[1:]}. To mend it: {self.advice}"


class Needed(NamedTuple):
    """A path that a process needs.

    Attributes:
        path: a folder or a file.
        want: READ or WRITE.
        top: the configured folder that contains it, which advice is about.
        purpose: what that folder is for.
    """

    path: Path
    want: int
    top: Path
    purpose: Purpose


class View(Protocol):
    """A process's view of the file system."""

    @property
    def user(self) -> str:
        """The name of its user."""

    def status(self, path: Path) -> os.stat_result | None:
        """The status of a path; None if there is none. PermissionError: it can't be found out."""

    def has(self, path: Path, want: int) -> bool:
        """Whether it has these rights (`os.R_OK`…) on a path, if it may enter the folders on the way."""

    def hides(self, path: Path) -> str:
        """The setting of the sandbox that hides this path, but not its parent; "" if none."""

    def is_read_only(self, path: Path) -> str:
        """The setting that makes a path read-only; "" if none."""


class Own:
    """The view of this process."""

    def __init__(self) -> None:
        uid = os.geteuid()
        try:
            self.user = pwd.getpwuid(uid).pw_name
        except KeyError:
            self.user = str(uid)
        self._mounts = _mounts()

    def first(self, needed: Iterable[Needed]) -> Obstacle | None:
        """The first obstacle on the way to one of these paths."""
        return next((found for each in needed if (found := find_obstacle(each, self))), None)

    def status(self, path: Path) -> os.stat_result | None:
        try:
            return path.stat()
        except OSError:  # the error of the use tells more
            return None

    def has(self, path: Path, want: int) -> bool:
        return os.access(path, want, effective_ids=True)

    def hides(self, path: Path) -> str:
        if self._mounts.get(path, NO_MOUNT).root.endswith("/inaccessible/dir"):
            return "ProtectHome=yes" if str(path) in HOMES else "InaccessiblePaths="
        parent = self._mounts.get(path.parent, NO_MOUNT)
        if not _is_sandboxed() or os.path.lexists(path):
            return ""
        if "/systemd-private-" in parent.root:
            return "PrivateTmp=yes"
        if parent.kind == "tmpfs" and parent.root == "/" and not parent.is_inherited:
            return "ProtectHome=tmpfs" if str(path.parent) in HOMES else "TemporaryFileSystem="
        return ""

    def is_read_only(self, path: Path) -> str:
        if not is_mounted_read_only(path):
            return ""
        point = next(each for each in (path, *path.parents) if each in self._mounts)
        is_mounted = "ro" in self._mounts[point].options
        return MOUNTED if is_mounted or not _is_sandboxed() else "ProtectSystem= or ReadOnlyPaths="


def is_mounted_read_only(path: Path) -> bool:
    """Whether a path, or the folder that it would be in, is on a read-only mount."""
    there = next(each for each in (path, *path.parents) if each.exists())
    return bool(os.statvfs(there).f_flag & os.ST_RDONLY)


class Mount(NamedTuple):
    """The folder of a file system that is mounted, the file system's type, and its own options.

    An inherited one comes from outside the sandbox.
    """

    root: str
    kind: str
    options: tuple[str, ...]
    is_inherited: bool


NO_MOUNT = Mount("", "", (), False)


def _is_sandboxed() -> bool:
    """Whether this process is that of a unit: systemd.exec(5), StateDirectory=."""
    return "STATE_DIRECTORY" in os.environ


def _mounts() -> dict[Path, Mount]:
    """The mounts of this process by their folders: proc_pid_mountinfo(5)."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, file_system = line.partition(" - ")
        _, _, _, root, point, *more = mount.split()
        kind, *_, options = file_system.split()
        found[Path(_unescaped(point))] = Mount(
            _unescaped(root),
            kind,
            tuple(options.split(",")),
            any(each.startswith("master:") for each in more),
        )
    return found


def _unescaped(text: str) -> str:
    r"""Decode \040 and similar."""
    return text.encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")


def way_to(path: Path) -> Iterator[Path]:
    """Yield `/`, each folder on the way with its links resolved, and the path's end."""
    here, parts, links = Path("/"), list(path.absolute().parts[1:]), 0
    yield here
    while parts and links <= MAX_LINKS:
        name = parts.pop(0)
        if name == "..":
            here = here.parent
            continue
        try:
            target = Path(os.readlink(here / name))
        except OSError:  # no link
            here /= name
            yield here
            continue
        links += 1
        if target.is_absolute():
            here = Path("/")
        parts[:0] = target.parts[target.is_absolute() :]


def find_obstacle(needed: Needed, view: View) -> Obstacle | None:
    """The first obstacle on the way to a path; None if there is none.

    A missing path is no obstacle, unless it is to be written and can't be made.

    Raises:
        PermissionError: this process may not look.
    """
    path, want, top, purpose = needed
    end, found = Path("/"), None
    steps = list(way_to(path))
    for each in steps:
        if setting := view.hides(each):
            return _hidden(each, setting, needed)
        status = view.status(each)
        if status is None or not (stat.S_ISDIR(status.st_mode) or each == steps[-1]):
            break
        end, found = each, status
        if each != steps[-1] and not view.has(each, os.X_OK):
            return _shut(each, status, view.user)
    if found is None or (end != steps[-1] and not want & os.W_OK):
        return None
    if want & os.W_OK and (setting := view.is_read_only(steps[-1])):
        return _read_only(top if top.is_relative_to(end) else end, setting, needed)
    is_folder = stat.S_ISDIR(found.st_mode)
    if view.has(end, want if is_folder else want & ~os.X_OK):
        return None
    verb = "write to" if want & os.W_OK else "read"
    problem = f"the user {view.user} may not {verb} {end} (mode {found.st_mode & 0o7777:04o})"
    if purpose == "configuration":
        return Obstacle(end, problem, f"sudo chmod {'a+rx' if is_folder else 'a+r'} {quoted(end)}")
    if end == steps[-1] or end.is_relative_to(os.path.realpath(top)):
        return Obstacle(end, problem, f"sudo chown{' -R' * is_folder} {view.user}: {quoted(end)}")
    problem = f"{top} doesn't exist, and {problem}"
    return Obstacle(end, problem, f"sudo install -d -o {view.user} {quoted(top)}")


def obstacles(needed: Iterable[Needed]) -> list[Obstacle]:
    """What keeps this process from these paths, each obstacle once."""
    view = Own()
    found = (find_obstacle(each, view) for each in needed)
    return list({each.folder: each for each in found if each is not None}.values())


def _shut(folder: Path, status: os.stat_result, user: str) -> Obstacle:
    mode = status.st_mode & 0o7777
    # with x for others already, it is the class of the owner or of the group that lacks it
    classes = "a" if mode & stat.S_IXOTH else "o"
    problem = f"the user {user} may not enter {folder} (mode {mode:04o})"
    return Obstacle(folder, problem, f"sudo chmod {classes}+x {quoted(folder)}")


def _hidden(folder: Path, setting: str, needed: Needed) -> Obstacle:
    problem = f"the unit's sandbox hides {folder} ({setting})"
    if setting.startswith("InaccessiblePaths="):  # paths below such a folder can't be shown again
        return Obstacle(folder, problem, _without(folder, "InaccessiblePaths="))
    if setting == "PrivateTmp=yes" or needed.top.is_relative_to("/run/user"):
        return Obstacle(
            folder, problem, f"set a folder on a disk, as /srv/stepaudiod, instead of {needed.top}"
        )
    bind = "BindPaths" if needed.want & os.W_OK else "BindReadOnlyPaths"
    lines = [f"{bind}={_in_unit(needed.top)}"]
    if setting == "ProtectHome=yes":
        lines.insert(0, "ProtectHome=tmpfs")
    return Obstacle(folder, problem, _advice(needed, lines), tuple(lines))


def _read_only(folder: Path, setting: str, needed: Needed) -> Obstacle:
    if setting == MOUNTED:
        point = next(each for each in (folder, *folder.parents) if os.path.ismount(each))
        problem = f"{folder} is read-only ({setting})"
        return Obstacle(folder, problem, f"sudo mount -o remount,rw {quoted(point)}")
    problem = f"{folder} is read-only ({setting})"
    name, _, listed = setting.partition("=/")
    if name == "ReadOnlyPaths" and Path("/", listed).is_relative_to(os.path.realpath(needed.top)):
        # ReadWritePaths= would have to name a folder below that one
        return Obstacle(folder, problem, _without(Path("/", listed), "ReadOnlyPaths="))
    lines = [f"ReadWritePaths={_in_unit(needed.top)}"]
    return Obstacle(folder, problem, _advice(needed, lines), tuple(lines))


def _without(folder: Path, setting: str) -> str:
    return f"take {folder} out of {setting} in the files that `systemctl cat stepaudiod` shows"


def _advice(needed: Needed, lines: list[str]) -> str:
    if needed.purpose == "data":
        return f"sudo stepaudioctl models move {quoted(needed.top)}"
    return f"sudo systemctl edit stepaudiod, and write: [Service] {' '.join(lines)}"


def _in_unit(path: Path) -> str:
    """A path as a value in a unit file; `-` lets the daemon start also while the path is missing."""
    text = str(path).replace("%", "%%")
    return f'"-{text}"' if " " in text else f"-{text}"


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def explain(needed: Needed) -> str:
    """What keeps this process from a path, to be appended to an error's message; "" if nothing does."""
    try:
        found = find_obstacle(needed, Own())
    except OSError:
        return ""
    return "" if found is None else f" {found}"
