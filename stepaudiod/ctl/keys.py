"""`stepaudioctl keys`: make, list and remove API keys. Uses the key file, and doesn't wake the daemon."""

from __future__ import annotations

import argparse
import contextlib
import errno
import grp
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stepaudiod import api_keys as keys
from stepaudiod.ctl.errors import WrongUsage
from stepaudiod.ctl.options import ACCOUNT, Options, global_options, word
from stepaudiod.ctl.privileges import open_as_root
from stepaudiod.ctl.terminal import Terminal, table
from stepaudiod.errors import ConfigError

NAME = "keys"
SUMMARY = "make, list and remove API keys"

MODE = 0o640
SHOWN_DIGITS = 12
"""So many digits of a digest tell keys apart, and are of no use to find a key."""
RELOAD = (
    "Next: systemctl try-reload-or-restart 'stepaudiod*.service' (a sleeping daemon reads the file when it "
    "starts)"
)
"""Of instances too; unlike reload, it doesn't fail while the daemon sleeps."""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = actions.add_parser(
        "add",
        help="make a key and print it, once",
        description="Make an API key, add its digest to the key file, and print the key, once.",
        parents=[global_options()],
    )
    add.add_argument("name", type=word, metavar="NAME", help="the owner's name; the journal shows it")
    where = add.add_mutually_exclusive_group()
    _add_file_option(where)
    where.add_argument(
        "--print-line", action="store_true", help="print the line for the key file instead of adding it"
    )
    add.set_defaults(action=_add)
    listing = actions.add_parser(
        "list",
        help="list the names of the keys",
        description="List the names of the keys, with the first digits of their digests.",
        parents=[global_options()],
    )
    _add_file_option(listing)
    listing.set_defaults(action=_list)
    remove = actions.add_parser(
        "remove",
        help="remove a key",
        description="Remove a key from the key file. It is refused once the daemon has read the file again.",
        parents=[global_options()],
    )
    remove.add_argument("name", type=word, metavar="NAME", help="one of `stepaudioctl keys list`")
    _add_file_option(remove)
    remove.set_defaults(action=_remove)


def _add_file_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--file",
        type=Path,
        default=keys.DEFAULT_PATH,
        metavar="FILE",
        help=f"the key file (default: {keys.DEFAULT_PATH})",
    )


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    arguments.action(arguments, terminal)


def _add(arguments: argparse.Namespace, terminal: Terminal) -> None:
    name: str = arguments.name
    if not keys.NAME.fullmatch(name):
        raise WrongUsage(f"{name!r} isn't a key's name: use letters, digits, '.', '_' and '-', at most 64.")
    key = keys.new_key()
    line = keys.format_line(name, key)
    if arguments.print_line:
        terminal.result({"name": name, "key": key, "line": line}, f"{key}\n{line}")
        return
    _append(arguments.file.absolute(), name, line)
    terminal.result({"name": name, "key": key, "file": str(arguments.file)}, key)
    terminal.note(f"Added to {arguments.file}; the key itself is stored nowhere. {RELOAD}")


def _list(arguments: argparse.Namespace, terminal: Terminal) -> None:
    path: Path = arguments.file.absolute()
    digests: dict[str, bytes] = {}
    if not _is_absent(path):
        with _open(path, os.O_RDONLY) as (file, _):
            digests = keys.parse(file.read(), str(path))
    rows = [(name, digest.hex()[:SHOWN_DIGITS]) for name, digest in digests.items()]
    text = table(("NAME", "DIGEST"), rows) if rows else f"{path} has no keys"
    terminal.result([{"name": name, "digest": digest} for name, digest in rows], text)


def _remove(arguments: argparse.Namespace, terminal: Terminal) -> None:
    name, path = arguments.name, arguments.file.absolute()
    with _open(path, os.O_RDONLY) as (file, folder):
        text = file.read()
        known = keys.parse(text, str(path))
        if name not in known:
            there = f"It has {', '.join(known)}" if known else "It has none"
            raise WrongUsage(f"{path} has no key named {name!r}. {there}.")
        _replace(path, folder, keys.without(text, name), os.fstat(file.fileno()))
    left = [each for each in known if each != name]
    terminal.result({"removed": name, "left": left, "file": str(path)}, f"removed {name} from {path}")
    terminal.note(f"Until the daemon reads the file again, the key still works. {RELOAD}")


def _append(path: Path, name: str, line: str) -> None:
    """Add the line; a new file is readable by root and the daemon only."""
    with _open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as (file, _):
        if os.fstat(file.fileno()).st_size == 0:
            _give_to_daemon(file.fileno())
        text = file.read()
        if name in keys.parse(text, str(path)):
            raise WrongUsage(
                f"{path} already has a key named {name!r}. Remove it (keys remove), or choose another name."
            )
        file.write(f"{line}\n" if not text or text.endswith("\n") else f"\n{line}\n")


def _replace(path: Path, folder: int | None, text: str, old: os.stat_result) -> None:
    """Replace the file in one step, with the owner, the group and the mode of the old one."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(_open_in(new, folder, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", newline="") as file:
            file.write(text)
            file.flush()
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            os.fsync(file.fileno())
        os.rename(_name_in(new, folder), _name_in(path, folder), src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_name_in(new, folder), dir_fd=folder)
        raise


@contextlib.contextmanager
def _open(path: Path, flags: int) -> Iterator[tuple[IO[str], int | None]]:
    """Open the key file, and as root its folder; devices, links and hard links are refused.

    Raises:
        WrongUsage: also for what is raised while it is open, such as a line that isn't a key's.
    """
    try:
        with (
            open_as_root(path.parent) as folder,
            # not waiting for the other end of a pipe; no translation of line ends
            open(
                _open_in(path, folder, flags | os.O_NONBLOCK), _mode(flags), encoding="utf-8", newline=""
            ) as file,
        ):
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise WrongUsage(f"{path} isn't a regular file with one name. Choose another file: --file.")
            yield file, folder
    except UnicodeDecodeError as error:
        raise WrongUsage(f"{path} isn't UTF-8 text: {error.reason}. Choose another file: --file.") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise WrongUsage(f"{path} is a link. Name the file itself: --file.") from None
        raise WrongUsage(
            f"{path} can't be used: {error.strerror or error}. Run it with sudo, or choose another --file."
        ) from None
    except ConfigError as error:
        raise WrongUsage(error.message) from None


def _is_absent(path: Path) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENOENT
    return False


def _mode(flags: int) -> str:
    return "r" if flags == os.O_RDONLY else "r+"


def _open_in(path: Path, folder: int | None, flags: int) -> int:
    """Open the file, in the folder if that is open; links are not followed."""
    return os.open(_name_in(path, folder), flags | os.O_NOFOLLOW | os.O_CLOEXEC, MODE, dir_fd=folder)


def _name_in(path: Path, folder: int | None) -> str:
    return str(path) if folder is None else path.name


def _give_to_daemon(descriptor: int) -> None:
    """Let the daemon's group read the file; if the group doesn't exist, only the owner."""
    os.fchmod(descriptor, MODE)
    with contextlib.suppress(KeyError, PermissionError):
        os.fchown(descriptor, -1, grp.getgrnam(ACCOUNT).gr_gid)
