"""`stepaudioctl`: parses the command line and maps errors to exit codes. Every command has its own module."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from stepaudiod.ctl import doctor, inspect, keys, models, say, status, unload, voices, warm
from stepaudiod.ctl.errors import CtlError, Terminated
from stepaudiod.ctl.options import Options, global_options
from stepaudiod.ctl.terminal import Terminal
from stepaudiod.version import VERSION_AND_COMMIT

EXIT_CODES = """\
exit codes:
  0    success
  1    the daemon or a model hub answered with an error, or another user owns the files
  2    wrong usage
  3    the daemon can't be reached, or the model hub
  4    audio or a model is incomplete, or there was not enough disk space
  5    no player was found, or it failed; or a required package isn't installed
  6    doctor found a problem
  7    inspect found no mark of synthetic audio
  130  interrupted by Ctrl-C (the daemon stops the work, a pull can be resumed); 143 by a termination signal
  141  the reader of the output closed the pipe
"""


class Command(Protocol):
    NAME: str
    SUMMARY: str

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None: ...


COMMANDS: tuple[Command, ...] = (say, status, warm, unload, voices, models, keys, inspect, doctor)


def build_parser() -> argparse.ArgumentParser:
    shared = global_options()
    parser = argparse.ArgumentParser(
        prog="stepaudioctl",
        description="Speak through stepaudiod, and manage it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    parser.add_argument("--version", action="version", version=f"stepaudioctl {VERSION_AND_COMMIT}")
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
    """Parse the command line; argparse can't parse the last `-` after options: `say "text" --voice x -`."""
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
    """Make termination signals unwind like Ctrl-C, which removes partial files and stops the player."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, _raise_terminated) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)
