"""`stepaudioctl keys`: make an API key. Works on the file of this machine's daemon, and doesn't wake it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import grp
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from stepaudiod import api_keys as keys
from stepaudiod.ctl.errors import WrongUsage
from stepaudiod.ctl.options import global_options, word
from stepaudiod.ctl.owner import roots_own_folder
from stepaudiod.errors import ConfigError

if TYPE_CHECKING:
    from stepaudiod.ctl.options import Options
    from stepaudiod.ctl.terminal import Terminal

NAME = "keys"
SUMMARY = "make API keys"

DEFAULT_FILE = Path("/etc/stepaudiod/api-keys")
GROUP = "stepaudio"
MODE = 0o640


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="make a key and print it, once", parents=[global_options()])
    add.add_argument("name", type=word, metavar="NAME", help="whose it is; the journal shows it")
    where = add.add_mutually_exclusive_group()
    where.add_argument(
        "--file",
        type=Path,
        default=DEFAULT_FILE,
        metavar="FILE",
        help=f"add it to this (default: {DEFAULT_FILE})",
    )
    where.add_argument(
        "--print-line", action="store_true", help="change no file, print the line for it as well"
    )


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    """Make a key."""
    name: str = arguments.name
    if not keys.NAME.fullmatch(name):
        raise WrongUsage(f"{name!r} can't name a key: letters, digits, '.', '_' and '-', at most 64 of them.")
    key = keys.new_key()
    line = keys.format_line(name, key)
    if arguments.print_line:
        terminal.result({"name": name, "key": key, "line": line}, f"{key}\n{line}")
        return
    _append(arguments.file, name, line)
    terminal.result({"name": name, "key": key, "file": str(arguments.file)}, key)
    terminal.note(
        f"{arguments.file} has it now; the key itself is kept nowhere. Then: systemctl reload stepaudiod"
    )


def _append(path: Path, name: str, line: str) -> None:
    """Add the line; a new file is for root and the daemon alone."""
    path = path.absolute()
    try:
        with (
            roots_own_folder(path.parent) as folder,
            open(_open(path, folder), "r+", encoding="utf-8") as file,
        ):
            _require_ordinary(file.fileno(), path)
            if os.fstat(file.fileno()).st_size == 0:
                _give_to_daemon(file.fileno())
            text = file.read()
            if name in keys.parse(text, str(path)):
                raise WrongUsage(
                    f"{path} has a key named {name!r} already. Delete its line, or take another name."
                )
            file.write(f"{line}\n" if not text or text.endswith("\n") else f"\n{line}\n")
    except UnicodeDecodeError as error:
        raise WrongUsage(f"{path} isn't UTF-8 text: {error.reason}. Another one: --file.") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise WrongUsage(f"{path} is a link. Name the file itself: --file.") from None
        raise WrongUsage(
            f"{path} can't be written: {error.strerror or error}. As root? Another one: --file."
        ) from None
    except ConfigError as error:
        raise WrongUsage(error.message) from None


def _open(path: Path, folder: int | None) -> int:
    """The file, made where it is missing; a link isn't followed."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path if folder is None else path.name, flags, MODE, dir_fd=folder)


def _require_ordinary(descriptor: int, path: Path) -> None:
    """Refuse a device, and a second name of a file that is somewhere else."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise WrongUsage(f"{path} isn't an ordinary file with one name. Take another one: --file.")


def _give_to_daemon(descriptor: int) -> None:
    """Let the daemon's group read the file, whatever the umask; where there is none, its owner alone."""
    os.fchmod(descriptor, MODE)
    with contextlib.suppress(KeyError, PermissionError):
        os.fchown(descriptor, -1, grp.getgrnam(GROUP).gr_gid)
