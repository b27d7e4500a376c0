"""`stepaudioctl keys`: make an API key. Writes to the key file, and doesn't wake the daemon."""

from __future__ import annotations

import argparse
import contextlib
import errno
import grp
import os
import stat
from pathlib import Path

from stepaudiod import api_keys as keys
from stepaudiod.ctl.errors import WrongUsage
from stepaudiod.ctl.options import ACCOUNT, Options, global_options, word
from stepaudiod.ctl.privileges import open_as_root
from stepaudiod.ctl.terminal import Terminal
from stepaudiod.errors import ConfigError

NAME = "keys"
SUMMARY = "make API keys"

MODE = 0o640


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
    where.add_argument(
        "--file",
        type=Path,
        default=keys.DEFAULT_PATH,
        metavar="FILE",
        help=f"the key file (default: {keys.DEFAULT_PATH})",
    )
    where.add_argument(
        "--print-line", action="store_true", help="print the line for the key file instead of adding it"
    )


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    name: str = arguments.name
    if not keys.NAME.fullmatch(name):
        raise WrongUsage(f"{name!r} isn't a key's name: use letters, digits, '.', '_' and '-', at most 64.")
    key = keys.new_key()
    line = keys.format_line(name, key)
    if arguments.print_line:
        terminal.result({"name": name, "key": key, "line": line}, f"{key}\n{line}")
        return
    _append(arguments.file, name, line)
    terminal.result({"name": name, "key": key, "file": str(arguments.file)}, key)
    terminal.note(
        f"Added to {arguments.file}; the key itself is stored nowhere. Next: systemctl reload stepaudiod"
    )


def _append(path: Path, name: str, line: str) -> None:
    """Add the line; a new file is readable by root and the daemon only."""
    path = path.absolute()
    try:
        with (
            open_as_root(path.parent) as folder,
            open(_open(path, folder), "r+", encoding="utf-8") as file,
        ):
            _require_ordinary(file.fileno(), path)
            if os.fstat(file.fileno()).st_size == 0:
                _give_to_daemon(file.fileno())
            text = file.read()
            if name in keys.parse(text, str(path)):
                raise WrongUsage(
                    f"{path} already has a key named {name!r}. Delete its line, or choose another name."
                )
            file.write(f"{line}\n" if not text or text.endswith("\n") else f"\n{line}\n")
    except UnicodeDecodeError as error:
        raise WrongUsage(f"{path} isn't UTF-8 text: {error.reason}. Choose another file: --file.") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise WrongUsage(f"{path} is a link. Name the file itself: --file.") from None
        raise WrongUsage(
            f"{path} can't be written: {error.strerror or error}. Run it with sudo, or choose another --file."
        ) from None
    except ConfigError as error:
        raise WrongUsage(error.message) from None


def _open(path: Path, folder: int | None) -> int:
    """Open the file, creating it if missing; links are not followed."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path if folder is None else path.name, flags, MODE, dir_fd=folder)


def _require_ordinary(descriptor: int, path: Path) -> None:
    """Refuse devices and hard links."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise WrongUsage(f"{path} isn't a regular file with one name. Choose another file: --file.")


def _give_to_daemon(descriptor: int) -> None:
    """Let the daemon's group read the file; if the group doesn't exist, only the owner."""
    os.fchmod(descriptor, MODE)
    with contextlib.suppress(KeyError, PermissionError):
        os.fchown(descriptor, -1, grp.getgrnam(ACCOUNT).gr_gid)
