"""Drops root's privileges before files in another user's folder are touched.

The owner of a folder can put links into it at any moment. A process with root's rights would follow them to
files of other users; one with the owner's rights reaches nothing that the owner couldn't reach anyway.
"""

from __future__ import annotations

import atexit
import errno
import os
import pickle
import pwd
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from typing import TypeVar

from stepaudiod.ctl.errors import NotPermitted, WrongUsage
from stepaudiod.errors import StepaudiodError

T = TypeVar("T")

FOLDER = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
MAX_LINKS = 40
"""The kernel's limit: path_resolution(7)."""
USER_FOLDERS = (
    "HF_HOME",
    "HF_TOKEN_PATH",
    "MODELSCOPE_HOME",
    "MODELSCOPE_CACHE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "TMPDIR",
)
"""Variables that name folders of the user that ran the command, which the owner may not use."""


def become_owner(folder: Path, below: Iterable[str] = (), *, make: bool = False) -> str | None:
    """As root, become the owner of the folder permanently; as any other user, do nothing.

    The owner is that of the first folder on the path from `/` that isn't root's, since it controls everything
    below. If root owns all of them, and no other user can change them, root stays root.

    Args:
        folder: an absolute path.
        below: names of folders in it that will be changed.
        make: create missing folders in folders of root.

    Returns:
        The owner's name; None if nothing has changed.

    Raises:
        NotPermitted: the path has a link or a folder that other users can change, or a folder of root
            contains folders of other users.
        WrongUsage: a part of the path isn't a folder.
    """
    if os.geteuid() != 0:
        return None
    with _walk(folder, make) as end:
        if end.owner is None:
            _require_roots_own(folder, end, below)
            return None
    return _become(end.owner)


@contextmanager
def open_as_root(folder: Path) -> Iterator[int | None]:
    """As root, open a folder that only root can change and yield its descriptor; as others, yield None.

    Raises:
        NotPermitted: other users can change it.
        FileNotFoundError: it doesn't exist.
    """
    if os.geteuid() != 0:
        yield None
        return
    with _walk(folder, make=False) as end:
        if end.owner is not None:
            raise NotPermitted(
                f"The user {user_name(end.owner.st_uid)} can change {folder}, so root doesn't write there. "
                "Choose a folder that only root can change."
            )
        if end.is_missing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        yield end.number


def owner_of(folder: Path) -> int:
    """The user that controls the folder, or will once it is made: see `become_owner`; errors as there."""
    with _walk(folder, make=False) as end:
        return 0 if end.owner is None else end.owner.st_uid


def make_folder(folder: Path, uid: int, gid: int, mode: int) -> None:
    """As root, create a folder for a user with all folders on the way, or give that user one of root's.

    Nothing changes if the user controls it already.

    Raises:
        NotPermitted: other users can change it.
        WrongUsage: a part of the path isn't a folder.
    """
    with _walk(folder, make=True) as end:
        if end.owner is None:
            _require_roots_own(folder, end, ())
            opened = f"/proc/self/fd/{end.number}"
            os.chown(opened, uid, gid)
            os.chmod(opened, mode)
        elif end.owner.st_uid != uid:
            raise NotPermitted(f"The user {user_name(end.owner.st_uid)} can change {folder}.")


def with_rights_of(uid: int, gid: int, gids: Iterable[int], function: Callable[[], T]) -> T:
    """As root, call a function in a child process that has a user's rights.

    Its result is pickled, as are the errors that are raised on purpose.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setgroups(sorted(gids))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            with open(writing, "wb") as pipe:
                pipe.write(_pickled(function))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            result, error = pickle.loads(pipe.read())
    except EOFError:
        raise NotPermitted(f"The process with the rights of {user_name(uid)} was killed.") from None
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.waitpid(child, 0)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _pickled(function: Callable[[], object]) -> bytes:
    """The result of a function and None, or None and its error."""
    try:
        return pickle.dumps((function(), None))
    except (OSError, StepaudiodError) as error:
        return pickle.dumps((None, error))


class _End:
    """The last folder that a walk has reached, and its status if it isn't root's."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.owner: os.stat_result | None = None
        self.is_missing = False

    def __enter__(self) -> _End:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.number)

    def go_to(self, number: int) -> None:
        os.close(self.number)
        self.number = number


def _walk(folder: Path, make: bool) -> _End:
    """Walk down to the first folder that isn't root's, or to the last."""
    with ExitStack() as on_error:
        here = on_error.enter_context(_End(os.open("/", FOLDER)))
        parts, is_shared, links = list(folder.parts[1:]), False, 0
        while parts:
            name = parts.pop(0)
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=here.number)
            try:
                inner = os.open(name, FOLDER, dir_fd=here.number)
            except FileNotFoundError:
                here.is_missing = True
                break
            found = os.fstat(inner)
            if stat.S_ISLNK(found.st_mode):
                target = PurePath(os.readlink("", dir_fd=inner))
                os.close(inner)
                links += 1
                if found.st_uid != 0 or is_shared or links > MAX_LINKS:
                    raise NotPermitted(
                        f"The path {folder} has a link to {target}, made by the user "
                        f"{user_name(found.st_uid)}. Root doesn't follow it: give the path without the link."
                    )
                if target.is_absolute():
                    here.go_to(os.open("/", FOLDER))
                    is_shared = False
                parts[:0] = target.parts[target.is_absolute() :]
                continue
            here.go_to(inner)
            if not stat.S_ISDIR(found.st_mode):
                raise WrongUsage(f"{folder}: {name} isn't a folder.")
            if found.st_uid != 0:
                here.owner = found
                break
            is_shared = bool(found.st_mode & OTHERS_WRITE)
            if is_shared and not found.st_mode & stat.S_ISVTX:
                raise _changeable(name)
        on_error.pop_all()
        return here


def _require_roots_own(folder: Path, end: _End, below: Iterable[str]) -> None:
    """Require that only root can change the folders that root will change."""
    if os.fstat(end.number).st_mode & OTHERS_WRITE:
        raise WrongUsage(f"{folder} doesn't exist.") if end.is_missing else _changeable(str(folder))
    for name in () if end.is_missing else below:
        with suppress(FileNotFoundError, NotADirectoryError):
            for path, _, _, inner in os.fwalk(name, dir_fd=end.number, follow_symlinks=False):
                found = os.fstat(inner)
                if found.st_uid != 0 or found.st_mode & OTHERS_WRITE:
                    raise _changeable(str(folder / path))


def _changeable(name: str) -> NotPermitted:
    return NotPermitted(
        f"{name} is in a folder of root, and other users can change it, so root changes nothing there. Give "
        "it to root (chown -R root, chmod -R go-w), or give the folder to the user that the daemon runs as."
    )


def _become(owner: os.stat_result) -> str:
    """Take the owner's rights instead of root's, permanently by setresuid(2)."""
    uid = owner.st_uid
    try:
        account = pwd.getpwuid(uid)
        gid, groups = account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)
    except KeyError:
        gid = owner.st_gid
        groups = [gid]
    os.chdir("/")
    for name in USER_FOLDERS:
        os.environ.pop(name, None)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # an empty home folder: libraries must find neither root's files nor forbidden ones
    home = os.environ["HOME"] = tempfile.mkdtemp(prefix="stepaudioctl-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    if not os.access(__file__, os.R_OK):
        raise NotPermitted(
            f"The files belong to the user {user_name(uid)}. The command continues as that user, which may "
            f"not read {Path(__file__).parent}. Install stepaudiod where every user may read it."
        )
    return user_name(uid)


def user_name(uid: int) -> str:
    """A user's name, or the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
