"""What every error means, with an example, and which of them any request may meet."""

from __future__ import annotations

from dataclasses import dataclass

from stepaudiod import errors
from stepaudiod.errors import StepaudiodError
from stepaudiod.web.errors import RETRY_AFTER_S, STATUSES, UNFINISHED


@dataclass(frozen=True)
class Failure:
    """One way to fail.

    Attributes:
        code: for programs; None where the bytes weren't HTTP.
        when: it happens.
        message: an example of what it says.
        param: an example of the field at fault.
    """

    code: str | None
    when: str
    message: str
    param: str | None = None


FAILURES: dict[type[StepaudiodError], Failure] = {
    kind: Failure(kind.code, when, message, param)
    for kind, when, message, param in (
        (
            errors.ConfigError,
            "the configuration is broken; the message names file and key",
            "stepaudiod can't work with its configuration. stepaudiod.toml: limits.max_queue: Input should "
            "be a valid integer",
            None,
        ),
        (
            errors.InvalidRequest,
            "a field is missing or wrong; `param` names it",
            "'speed': Input should be less than or equal to 4.",
            "speed",
        ),
        (
            errors.NotFound,
            "there is no such model or voice",
            "There is no model 'nobody'. Models here: kokoro, hibari.",
            "model",
        ),
        (
            errors.KeyRefused,
            "an API key is needed, and there is none or a wrong one",
            "An API key is needed here. Send it as Authorization: Bearer KEY.",
            None,
        ),
        (
            errors.OriginRefused,
            "a page of another site asks",
            "A page of another site (https://example.org) may not call this daemon. To allow it, add its "
            "origin to access.origins.",
            None,
        ),
        (
            errors.HostRefused,
            "the daemon was called by a name that isn't its own",
            "This daemon isn't called 'example.org'. If the name is this machine's, add it to access.hosts.",
            None,
        ),
        (
            errors.TookTooLong,
            "the work wasn't done after `timeouts.request`",
            "The request wasn't done after 600 s (timeouts.request). Send less.",
            None,
        ),
        (
            errors.DiskFull,
            "the disk has no room for what was sent",
            "The daemon's disk has no room for what was sent. Free some there, then send it again.",
            None,
        ),
        (
            errors.TooLarge,
            "the body, or the recording in it, is over a configured limit",
            "The body is larger than 1,048,576 bytes (limits.max_body). Send the text in parts.",
            None,
        ),
        (
            errors.TooSlow,
            "the request stopped coming, or came too slowly",
            "The body stopped coming for 30 s.",
            None,
        ),
        (
            errors.Unsupported,
            "the engine can't do it; the message says what could",
            "The model hibari can't denoise. These can: step-audio-editx.",
            "model",
        ),
        (
            errors.Busy,
            "the queue is full, too many recordings are being sent, or the model to unload is at work",
            "64 requests are waiting already (limits.max_queue). Come back in 12 s.",
            None,
        ),
        (
            errors.Stopping,
            "the daemon is going away; connect again",
            "The daemon is stopping. Connect again: the next one serves you.",
            None,
        ),
        (
            errors.EngineError,
            "the engine failed on this request",
            "The engine failed on this request (RuntimeError). The journal has the details.",
            None,
        ),
        (
            errors.EngineUnavailable,
            "packages or weights are missing",
            "Nothing that is installed can denoise. To have it, run stepaudioctl models pull.",
            None,
        ),
        (
            errors.ModelFileError,
            "a model file is damaged",
            "model.safetensors is cut short. Fetch it again: stepaudioctl models pull.",
            None,
        ),
        (
            errors.SynthesisFailed,
            "the engine ran, and its output can't be used",
            "The engine's output is silent, twice. Try another seed.",
            None,
        ),
        (
            errors.WorkerLost,
            "the worker died with this request; send it again",
            "The worker died while it had this request (SIGKILL). Send it again.",
            None,
        ),
    )
}
"""Every error that has a status."""

MISTAKE = Failure(
    "internal_error",
    "a mistake of ours; the journal has the details",
    "The daemon made a mistake; its journal has the details.",
)

ALWAYS: dict[int, tuple[Failure, ...]] = {
    400: (
        Failure(None, "the bytes aren't HTTP", "This isn't a request that can be read: illegal header line."),
    ),
    401: (FAILURES[errors.KeyRefused],),
    403: (FAILURES[errors.OriginRefused],),
    408: (
        Failure(
            None,
            "the headers did not come within `timeouts.header`",
            "The request's headers did not come within 10 s.",
        ),
    ),
    421: (FAILURES[errors.HostRefused],),
    431: (
        Failure(
            None,
            "the headers are too long",
            "This isn't a request that can be read: Receive buffer too long.",
        ),
    ),
    500: (MISTAKE,),
    501: (
        Failure(
            None,
            "a Transfer-Encoding that isn't chunked",
            "This isn't a request that can be read: Only Transfer-Encoding: chunked is supported.",
        ),
    ),
    503: (FAILURES[errors.ConfigError],),
}
"""What any request may be answered, by status."""

READS = (errors.InvalidRequest, errors.TooLarge, errors.TooSlow, errors.Busy, errors.DiskFull)
"""Any body may be wrong, too large, stop coming, or find no room."""
NAMES_A_MODEL = (errors.NotFound, errors.EngineUnavailable)
WORKS = (
    *NAMES_A_MODEL,
    errors.Unsupported,
    errors.Stopping,
    errors.EngineError,
    errors.SynthesisFailed,
    errors.TookTooLong,
    errors.ModelFileError,
    errors.WorkerLost,
)
"""What can go wrong once an engine is to do something."""


def failures_of(kinds: tuple[type[StepaudiodError], ...]) -> dict[int, list[Failure]]:
    """What a request that may raise these can be answered, by status."""
    found = {status: list(failures) for status, failures in ALWAYS.items()}
    for kind in kinds:
        same = found.setdefault(STATUSES[kind], [])
        if FAILURES[kind] not in same:
            same.append(FAILURES[kind])
    return dict(sorted(found.items()))


def headers_of(status: int) -> tuple[str, ...]:
    """The headers that come with an error."""
    retried = {STATUSES[kind] for kind in RETRY_AFTER_S} | {STATUSES[errors.Busy]}
    return (
        *(("WWW-Authenticate",) if status == STATUSES[errors.KeyRefused] else ()),
        *(("Retry-After",) if status in retried else ()),
        *(("Connection",) if status in UNFINISHED else ()),
    )
