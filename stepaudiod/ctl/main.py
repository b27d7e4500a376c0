"""`stepaudioctl`: one module a command; this one reads the command line and turns errors into exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from stepaudiod import __version__
from stepaudiod.ctl import doctor, inspect, keys, models, say, status, unload, voices, warm
from stepaudiod.ctl.errors import CtlError, Terminated
from stepaudiod.ctl.options import Options, global_options
from stepaudiod.ctl.terminal import Terminal

EXIT_CODES = """\
exit codes:
  0    success
  1    the daemon or a model hub answered with an error, or files belong to somebody else
  2    wrong usage
  3    the daemon can't be reached, or the model hub
  4    audio or a model is incomplete, or there was no room for it
  5    no player was found, or it failed; or a package that is needed isn't installed
  6    doctor found something wrong
  7    inspect found no mark of synthetic sound
  130  interrupted by Ctrl-C (the daemon stops the work, a pull goes on later); 143 by a termination signal
  141  whoever read the output has gone
"""


class Command(Protocol):
    """What a command's module has."""

    NAME: str
    SUMMARY: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own options."""

    def run(self, arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
        """Do it; what goes wrong is a `CtlError`."""


COMMANDS: tuple[Command, ...] = (say, status, warm, unload, voices, models, keys, inspect, doctor)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    shared = global_options()
    parser = argparse.ArgumentParser(
        prog="stepaudioctl",
        description="Speak through stepaudiod, and look after it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    parser.add_argument("--version", action="version", version=f"stepaudioctl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}.",
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[shared],
        )
        command.configure(subparser)
        subparser.set_defaults(command=command)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; argparse has no place for a last `-` behind options: `say "text" --voice x -`."""
    parser = build_parser()
    arguments, left = parser.parse_known_args(argv)
    if left == ["-"] and vars(arguments).get("to_pipe", "-") is None:
        arguments.to_pipe = "-"
    elif left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code, see `EXIT_CODES`.
    """
    try:
        with _termination_raises():
            return _run(_parse(argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except Terminated as stop:
        return 128 + stop.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def _run(arguments: argparse.Namespace) -> int:
    """The command, with its errors said."""
    given = vars(arguments)
    terminal = Terminal(as_json=given.get("json", False), is_quiet=given.get("quiet", False))
    try:
        command: Command = arguments.command
        command.run(arguments, Options.of(arguments, os.environ), terminal)
    except CtlError as error:
        terminal.error(error)
        return error.exit_code
    finally:
        terminal.end_progress()
    return 0


@contextmanager
def _termination_raises() -> Iterator[None]:
    """A termination signal unwinds like Ctrl-C, so that no half file stays and the player is silenced."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, _raise_terminated) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    """The handler."""
    raise Terminated(number)


if __name__ == "__main__":
    sys.exit(main())
