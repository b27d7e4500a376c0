"""Every error that stepaudiod raises on purpose. Knows no HTTP: `web/errors.py` maps these to statuses.

    StepaudiodError
    ├── ConfigError               the configuration can't be used
    ├── InvalidRequest            what was asked makes no sense; names the parameter
    │   ├── NotFound              the voice or model that was named isn't here
    │   ├── TooLarge              more than a configured limit
    │   ├── TooSlow               the request did not come within its deadline
    │   └── Unsupported           the engine can't do it; says what would make it possible
    ├── AccessRefused             who asks may not
    │   ├── HostRefused           the daemon was called by a name that isn't its own
    │   ├── OriginRefused         a web page of another site asks
    │   └── KeyRefused            no API key, or a wrong one
    ├── Busy                      the queue is full or something is in use; says when to come back
    ├── Stopping                  the daemon is going away and takes no more work
    ├── TookTooLong               the work wasn't done within its deadline
    ├── DiskFull                  what was sent has no room on the disk
    └── EngineError               the work itself failed
        ├── EngineUnavailable     no engine, or its packages or weights are missing
        ├── ModelFileError        a model file is missing, truncated or wrong
        ├── SynthesisFailed       the engine ran and its output can't be used
        └── WorkerLost            the worker died or hung; the same request may work again

Each message says what happened, what was expected and found where that helps, and what to do next.
"""

from __future__ import annotations


class StepaudiodError(Exception):
    """Base of all errors here. `str(error)` is a sentence for the person who meets it."""

    code = "error"

    @property
    def message(self) -> str:
        """The sentence."""
        return str(self)


class ConfigError(StepaudiodError):
    """The configuration can't be used; the message names the file and the key."""

    code = "config_invalid"


class InvalidRequest(StepaudiodError):
    """What was asked makes no sense.

    Args:
        message: what is wrong, and what would be right.
        param: the request field at fault, in the form the client wrote it.
    """

    code = "invalid_value"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class NotFound(InvalidRequest):
    """The voice or model that was named isn't here."""

    code = "not_found"


class TooLarge(InvalidRequest):
    """More than a configured limit."""

    code = "too_large"


class TooSlow(InvalidRequest):
    """The request did not come within its deadline."""

    code = "request_timeout"


class Unsupported(InvalidRequest):
    """The engine can't do it; the message says what would make it possible."""

    code = "unsupported"


class AccessRefused(StepaudiodError):
    """Who asks may not; the message names the setting that would allow it."""

    code = "access_refused"


class HostRefused(AccessRefused):
    """The daemon was called by a name that isn't its own."""

    code = "host_not_allowed"


class OriginRefused(AccessRefused):
    """A web page of another site asks."""

    code = "origin_not_allowed"


class KeyRefused(AccessRefused):
    """No API key, or a wrong one."""

    code = "invalid_api_key"


class Busy(StepaudiodError):
    """There is no room at this moment.

    Args:
        message: what is full or in use.
        retry_after_s: whole seconds until it is worth asking again.
    """

    code = "busy"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Stopping(StepaudiodError):
    """The daemon is going away and takes no more work; the next connection starts a fresh one."""

    code = "stopping"


class TookTooLong(StepaudiodError):
    """The work wasn't done within its deadline."""

    code = "deadline_exceeded"


class DiskFull(StepaudiodError):
    """What was sent has no room on the disk."""

    code = "disk_full"


class EngineError(StepaudiodError):
    """The work itself failed."""

    code = "engine_failed"


class EngineUnavailable(EngineError):
    """No engine can be used: its packages or weights are missing."""

    code = "engine_unavailable"


class ModelFileError(EngineError):
    """A model file is missing, truncated or wrong; names it, what was expected, and the mend."""

    code = "model_file_invalid"


class SynthesisFailed(EngineError):
    """The engine ran, and its output can't be used (silent, runaway or truncated)."""

    code = "synthesis_failed"


class WorkerLost(EngineError):
    """The worker died or hung while it had this request; the same request may work again."""

    code = "worker_lost"
