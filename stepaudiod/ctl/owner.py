"""Root becomes the owner of a folder before it touches anything in it. Knows no models and no keys.

The owner of a folder can put links into it at any moment. A process with root's rights would follow them to
files of others; one with the owner's rights reaches nothing that its owner couldn't reach anyway.
"""

from __future__ import annotations

import atexit
import errno
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath

from stepaudiod.ctl.errors import NotPermitted, WrongUsage

FOLDER = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
MOST_LINKS = 40
"""As the kernel has it: path_resolution(7)."""
OF_A_HOME = (
    "HF_HOME",
    "HF_TOKEN_PATH",
    "MODELSCOPE_HOME",
    "MODELSCOPE_CACHE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "TMPDIR",
)
"""Variables that name folders of the user that ran the command; the owner may not use them."""


def act_as_owner(folder: Path, below: Iterable[str] = (), *, make: bool = False) -> str | None:
    """As root, become the owner of the folder, for good; as any other user, do nothing.

    The owner is that of the first folder on the way from `/` that isn't root's, since it decides what is
    below. Where all of them are root's, and no other user can change them, root stays root.

    Args:
        folder: an absolute path.
        below: names of folders in it that are going to be changed.
        make: make the folders that are missing where they would be root's.

    Returns:
        The owner's name; None where nothing has changed.

    Raises:
        NotPermitted: the way goes over a link or a folder that others can change; or a folder of root's has
            folders of others in it.
        WrongUsage: a part of the path is no folder.
    """
    if os.geteuid() != 0:
        return None
    with _walk(folder, make) as end:
        if end.owner is None:
            _require_roots_own(folder, end, below)
            return None
    return _become(end.owner)


@contextmanager
def roots_own_folder(folder: Path) -> Iterator[int | None]:
    """As root, give the descriptor of a folder that root alone can change, for `dir_fd`; else None.

    Raises:
        NotPermitted: others can change it.
        FileNotFoundError: it isn't there.
    """
    if os.geteuid() != 0:
        yield None
        return
    with _walk(folder, make=False) as end:
        if end.owner is not None:
            raise NotPermitted(
                f"{folder} can be changed by the user {_name(end.owner.st_uid)}, so root writes nothing "
                "there. Take a folder of root's."
            )
        if end.is_missing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        yield end.number


class _End:
    """Where the way to a folder has led so far.

    Attributes:
        number: the descriptor of the last folder on it.
        owner: what that folder is, if it isn't root's.
        is_missing: whether the next part of the way isn't there.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.owner: os.stat_result | None = None
        self.is_missing = False

    def __enter__(self) -> _End:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.number)

    def go_to(self, number: int) -> None:
        """Hold another folder in place of this one."""
        os.close(self.number)
        self.number = number


def _walk(folder: Path, make: bool) -> _End:
    """Go down to the first folder that isn't root's, or to the last."""
    with ExitStack() as on_error:
        here = on_error.enter_context(_End(os.open("/", FOLDER)))
        way, is_shared, links = list(folder.parts[1:]), False, 0
        while way:
            name = way.pop(0)
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
                if found.st_uid != 0 or is_shared or links > MOST_LINKS:
                    raise NotPermitted(
                        f"On the way to {folder} is a link to {target}, made by the user "
                        f"{_name(found.st_uid)}. Root doesn't follow it: name the place itself."
                    )
                if target.is_absolute():
                    here.go_to(os.open("/", FOLDER))
                    is_shared = False
                way[:0] = target.parts[target.is_absolute() :]
                continue
            here.go_to(inner)
            if not stat.S_ISDIR(found.st_mode):
                raise WrongUsage(f"{folder}: {name} is no folder.")
            if found.st_uid != 0:
                here.owner = found
                break
            is_shared = bool(found.st_mode & OTHERS_WRITE)
            if is_shared and not found.st_mode & stat.S_ISVTX:
                raise _changeable(name)
        on_error.pop_all()
        return here


def _require_roots_own(folder: Path, end: _End, below: Iterable[str]) -> None:
    """Where root stays root, it alone must be able to change what it is going to touch."""
    if os.fstat(end.number).st_mode & OTHERS_WRITE:
        raise WrongUsage(f"{folder} isn't there.") if end.is_missing else _changeable(str(folder))
    for name in () if end.is_missing else below:
        with suppress(FileNotFoundError, NotADirectoryError):
            for path, _, _, inner in os.fwalk(name, dir_fd=end.number, follow_symlinks=False):
                found = os.fstat(inner)
                if found.st_uid != 0 or found.st_mode & OTHERS_WRITE:
                    raise _changeable(str(folder / path))


def _changeable(name: str) -> NotPermitted:
    return NotPermitted(
        f"{name} is in a folder of root's, and others can change it, so root touches nothing there. Give it "
        "to root (chown -R root, chmod -R go-w), or give the folder to the user that the daemon runs as."
    )


def _become(owner: os.stat_result) -> str:
    """Take the owner's rights instead of root's, for good: there is no way back from setresuid(2)."""
    uid = owner.st_uid
    try:
        account = pwd.getpwuid(uid)
        gid, groups = account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)
    except KeyError:
        gid = owner.st_gid
        groups = [gid]
    os.chdir("/")
    for name in OF_A_HOME:
        os.environ.pop(name, None)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # an empty home of its own: what libraries look for there must not be root's, nor be forbidden
    home = os.environ["HOME"] = tempfile.mkdtemp(prefix="stepaudioctl-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    if not os.access(__file__, os.R_OK):
        raise NotPermitted(
            f"The files belong to the user {_name(uid)}. The command goes on as that user, which may not "
            f"read {Path(__file__).parent}. Install stepaudiod where every user may read it."
        )
    return _name(uid)


def _name(uid: int) -> str:
    """A user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
