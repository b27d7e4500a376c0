"""What can go wrong for `stepaudioctl`, each with the exit code that scripts see.

CtlError
├── DaemonRefused      1   the daemon answered with an error
├── WrongUsage         2   what was typed can't be done
├── Unreachable        3   nobody answers; the message says what to do
├── IncompleteAudio    4   the audio ended before its end, or couldn't be kept
└── PlayerMissing      5   nothing here can play it
Terminated           128+n signal n told us to stop; Ctrl-C is 130
"""

from __future__ import annotations

from stepaudiod.errors import StepaudiodError


class CtlError(StepaudiodError):
    """Base of what ends a command."""

    exit_code = 1


class DaemonRefused(CtlError):
    """The daemon answered with an error.

    Args:
        message: what the daemon said.
        status: the HTTP status.
        code: the daemon's name for it.
        param: the request field at fault.
    """

    exit_code = 1

    def __init__(self, message: str, status: int, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or "error"
        self.param = param


class WrongUsage(CtlError):
    """What was typed can't be done."""

    exit_code = 2
    code = "usage"


class Unreachable(CtlError):
    """Nobody answers at the address."""

    exit_code = 3
    code = "unreachable"


class IncompleteAudio(CtlError):
    """The audio ended before its end, or couldn't be kept."""

    exit_code = 4
    code = "incomplete"


class PlayerMissing(CtlError):
    """There is no player, or the one there is doesn't work."""

    exit_code = 5
    code = "no_player"


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C told us to stop; like Ctrl-C, it passes every handler of ordinary errors.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
