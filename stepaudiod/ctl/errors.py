"""What can go wrong for `stepaudioctl`, each with the exit code that scripts see.

CtlError
├── DaemonRefused      1   the daemon answered with an error
├── HubRefused         1   a model hub answered with an error
├── NotPermitted       1   files here belong to somebody else; the message says which command may
├── WrongUsage         2   what was typed can't be done
├── Unreachable        3   nobody answers; the message says what to do
├── IncompleteAudio    4   the audio ended before its end, or couldn't be kept
├── IncompleteModel    4   a model's file is missing, or isn't what it should be
├── NoRoom             4   the disk hasn't the room for a model
├── PlayerMissing      5   nothing here can play it
├── ClientMissing      5   the package that talks to a model hub isn't installed
├── ProblemsFound          6   `doctor` found something wrong
└── NotMarked          7   `inspect` found no mark in the file
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


class HubRefused(CtlError):
    """A model hub answered with an error."""

    exit_code = 1
    code = "hub_refused"


class NotPermitted(CtlError):
    """Files here belong to somebody else."""

    exit_code = 1
    code = "not_permitted"


class WrongUsage(CtlError):
    """What was typed can't be done."""

    exit_code = 2
    code = "usage"


class Unreachable(CtlError):
    """Nobody answers at the address: the daemon's, or a model hub's."""

    exit_code = 3
    code = "unreachable"


class IncompleteAudio(CtlError):
    """The audio ended before its end, or couldn't be kept."""

    exit_code = 4
    code = "incomplete"


class IncompleteModel(CtlError):
    """A model's file is missing, or isn't what it should be."""

    exit_code = 4
    code = "model_incomplete"


class InsufficientSpace(CtlError):
    """The disk hasn't the room for a model."""

    exit_code = 4
    code = "no_room"


class PlayerMissing(CtlError):
    """There is no player, or the one there is doesn't work."""

    exit_code = 5
    code = "no_player"


class ClientMissing(CtlError):
    """The package that talks to a model hub isn't installed."""

    exit_code = 5
    code = "client_missing"


class ProblemsFound(CtlError):
    """`doctor` found something wrong, and has said what."""

    exit_code = 6
    code = "unwell"


class NotMarked(CtlError):
    """`inspect` found no mark of synthetic sound in the file."""

    exit_code = 7
    code = "not_marked"


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C told us to stop; like Ctrl-C, it passes every handler of ordinary errors.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
