"""The errors of `stepaudioctl`, with their exit codes.

CtlError
├── DaemonRefused      1   the daemon answered with an error
├── HubRefused         1   a model hub answered with an error
├── NotPermitted       1   another user owns the files; the message says which command may
├── WrongUsage         2   invalid arguments
├── Unreachable        3   the daemon, a hub or systemd does not answer; the message says what to do
├── IncompleteAudio    4   the audio was cut off, or couldn't be written
├── IncompleteModel    4   a file of a model is missing or wrong
├── InsufficientSpace  4   not enough disk space for a model
├── PlayerMissing      5   no audio player, or the player failed
├── ClientMissing      5   a package that the command needs isn't installed
├── ProblemsFound      6   `doctor` found a problem
└── NotMarked          7   `inspect` found no mark in the file
Terminated         128+n   signal n; Ctrl-C is 130
"""

from __future__ import annotations

from stepaudiod.errors import StepaudiodError


class CtlError(StepaudiodError):
    exit_code = 1


class DaemonRefused(CtlError):
    def __init__(self, message: str, status: int, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or "error"
        self.param = param


class HubRefused(CtlError):
    code = "hub_refused"


class NotPermitted(CtlError):
    code = "not_permitted"


class WrongUsage(CtlError):
    exit_code = 2
    code = "usage"


class Unreachable(CtlError):
    exit_code = 3
    code = "unreachable"


class IncompleteAudio(CtlError):
    exit_code = 4
    code = "incomplete"


class IncompleteModel(CtlError):
    exit_code = 4
    code = "model_incomplete"


class InsufficientSpace(CtlError):
    exit_code = 4
    code = "no_room"


class PlayerMissing(CtlError):
    exit_code = 5
    code = "no_player"


class ClientMissing(CtlError):
    exit_code = 5
    code = "client_missing"


class ProblemsFound(CtlError):
    exit_code = 6
    code = "unwell"


class NotMarked(CtlError):
    exit_code = 7
    code = "not_marked"


class Terminated(KeyboardInterrupt):
    """A termination signal. Like Ctrl-C, it is not caught by handlers of ordinary errors."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
