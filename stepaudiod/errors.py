"""Every error that stepaudiod raises on purpose. `web/errors.py` maps these to HTTP statuses.

Each message says what happened, what was expected and found where that helps, and what to do next.
"""

from __future__ import annotations


class StepaudiodError(Exception):
    """Base of all errors here. `str(error)` is a sentence for the user."""

    code = "error"

    @property
    def message(self) -> str:
        return str(self)


class ConfigError(StepaudiodError):
    """The configuration is invalid; the message names the file and the key."""

    code = "config_invalid"


class AddressTaken(StepaudiodError):
    """Another process listens at an address; the message names it and says how to stop it."""

    code = "address_taken"


class InvalidRequest(StepaudiodError):
    """The request is invalid."""

    code = "invalid_value"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class NotFound(InvalidRequest):
    """The named voice or model does not exist."""

    code = "not_found"


class TooLarge(InvalidRequest):
    """The request has more than a configured limit."""

    code = "too_large"


class TooSlow(InvalidRequest):
    """The request was not received within its deadline."""

    code = "request_timeout"


class Unsupported(InvalidRequest):
    """The engine can't do it; the message says which one could."""

    code = "unsupported"


class AccessRefused(StepaudiodError):
    """The caller is not allowed; the message names the setting that would allow it."""

    code = "access_refused"


class HostRefused(AccessRefused):
    """The Host header is not one of the daemon's names."""

    code = "host_not_allowed"


class OriginRefused(AccessRefused):
    """The request comes from a web page of another site."""

    code = "origin_not_allowed"


class KeyRefused(AccessRefused):
    """There is no API key, or a wrong one."""

    code = "invalid_api_key"


class Busy(StepaudiodError):
    """The queue is full or something is in use; the message says when to retry."""

    code = "busy"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Stopping(StepaudiodError):
    """The daemon is exiting; the next connection starts a new one."""

    code = "stopping"


class TookTooLong(StepaudiodError):
    """The work wasn't done within its deadline."""

    code = "deadline_exceeded"


class DiskFull(StepaudiodError):
    """There is no space on the disk for the uploaded data."""

    code = "disk_full"


class EngineError(StepaudiodError):
    """The engine failed."""

    code = "engine_failed"


class EngineUnavailable(EngineError):
    """There is no engine, or its packages or weights are missing."""

    code = "engine_unavailable"


class GpuFull(EngineUnavailable):
    """Other processes hold the GPU memory that the model needs; the message names them."""

    code = "gpu_full"


class ModelFileError(EngineError):
    """A model file is missing, truncated or wrong."""

    code = "model_file_invalid"


class SynthesisFailed(EngineError):
    """The output can't be used: it is silent, runaway or truncated."""

    code = "synthesis_failed"


class WorkerLost(EngineError):
    """The worker died or hung; the same request may work when repeated."""

    code = "worker_lost"
