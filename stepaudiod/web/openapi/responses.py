"""Parts that endpoints share: one response for each status of an error, and every header."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from stepaudiod import errors
from stepaudiod.errors import StepaudiodError
from stepaudiod.web.endpoint import JSON
from stepaudiod.web.errors import RETRY_AFTER_S, STATUSES, UNFINISHED, error_body

Table = dict[str, Any]

HEADERS = {
    "X-Request-Id": "the request's id in the journal; the client's own, if it sent a valid one",
    "Retry-After": "whole seconds after which to try again",
    "Connection": "`close`: the rest of the request is not read",
    "X-StepAudio-Model": "the model that did the work",
    "X-StepAudio-Synthetic": "how the sound was made: `generated; model=kokoro`, or for an edit `edited; "
    "model=studio`. Absent where marking.metadata is off",
    "X-StepAudio-Voice": "the id of the voice",
    "X-StepAudio-Seed": "the seed; the same one gives the same audio. Step-Audio-EditX only",
    "X-StepAudio-Instructions": "what of `instructions` was followed, for instance `style=whisper`",
    "X-StepAudio-Ignored": "fields that were given and not used, separated by commas: unknown fields, "
    "`instructions` or a language that can't be followed, and in the old form fields that the mode does not "
    "use",
    "X-StepAudio-Warning": "percent-encoded, separated by semicolons: names in brackets that are not tags "
    "and were passed on as text (Step-Audio-EditX only); in the old form also values that are not known or "
    "were taken as another",
    "X-StepAudio-Pieces": "the number of pieces that the text was cut into",
    "X-StepAudio-Reference-Stretch": "the seconds of a long recording that were used",
    "X-StepAudio-Transcript": "what a recogniser understood in the recording, percent-encoded",
    "X-StepAudio-Noise-Reduction": "what removed the noise: `rnnoise`",
    "X-StepAudio-Tempo": "the factor by which the recording is faster",
    "X-StepAudio-Language": "the language of the recording, where it is known before the first event",
    "X-StepAudio-Duration-S": "the length of the recording in seconds",
    "X-StepAudio-Version": "the daemon's version",
    "X-StepAudio-Commit": "the hash of the commit that the daemon was built from, with `-dirty` behind it if "
    "the tree had changes; in a checkout the commit that was checked out. Absent where it is unknown",
    "X-StepAudio-Worker": "the worker's state: `none`, `awake`, `checkpointing`, `dozing`, `waiting` (with "
    "work, for GPU memory) or `restoring`",
    "WWW-Authenticate": "`Bearer`, or `Basic` where a browser requests a page",
    "Accept-Ranges": "`bytes`",
    "Content-Range": "which bytes these are",
    "Content-Security-Policy": "what the page may load",
    "Referrer-Policy": "`no-referrer`",
    "Permissions-Policy": "which of the browser's devices the page may use",
    "Location": "the new path",
}
"""Every header of an answer beside HTTP's own."""


class Failure(NamedTuple):
    """An error code of a status; None where the request was not valid HTTP."""

    status: int
    code: str | None
    when: str


OF_HTTP = (
    Failure(400, None, "The request is not valid HTTP."),
    Failure(408, None, "The headers did not come within `timeouts.header`."),
    Failure(431, None, "The headers are too long."),
    Failure(500, "internal_error", "A fault of the daemon; its journal has the details."),
    Failure(501, None, "The Transfer-Encoding is not chunked."),
)
ANY = (errors.KeyRefused, errors.OriginRefused, errors.HostRefused, errors.ConfigError)
"""Errors that every request may meet."""


def statuses(raised: tuple[type[StepaudiodError], ...]) -> list[int]:
    """The statuses of these errors and of those that every request may meet."""
    return sorted({STATUSES[kind] for kind in (*raised, *ANY)} | {failure.status for failure in OF_HTTP})


def error_name(status: int) -> str:
    return f"Error{status}"


def error(status: int) -> Table:
    """The response of a status: an example for each of its codes, described by the error's docstring."""
    failures = [each for each in OF_HTTP if each.status == status]
    for kind, its_status in STATUSES.items():
        if its_status == status:
            failures.append(Failure(status, kind.code, (kind.__doc__ or "").partition("\n")[0]))
    examples = {
        failure.code or "not_http": {
            "summary": failure.when,
            "value": json.loads(error_body(failure.when, status, failure.code)),
        }
        for failure in failures
    }
    has_header = {
        "WWW-Authenticate": status == STATUSES[errors.KeyRefused],
        "Retry-After": status in {STATUSES[kind] for kind in (*RETRY_AFTER_S, errors.Busy)},
        "Connection": status in UNFINISHED,
    }
    return {
        "description": " Or: ".join(failure.when for failure in failures),
        "headers": headers(tuple(name for name, is_sent in has_header.items() if is_sent)),
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}, "examples": examples}},
    }


def headers(names: tuple[str, ...]) -> Table:
    """References to these headers, and to that of every answer."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def header(name: str) -> Table:
    schema = {"type": "integer", "minimum": 0} if name == "Retry-After" else {"type": "string"}
    return {"description": HEADERS[name], "schema": schema}
