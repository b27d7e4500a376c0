"""An endpoint: a route, and what the OpenAPI document says about it, declared beside its handler.

    @endpoint("GET /v1/tags", "listTags", EDITS, "Tags")
    async def tags(request: Request) -> Response:
        \"\"\"List every edit.

        More of its description, in Markdown.
        \"\"\"

The schemas of answers are names here: `openapi/answers.py` is imported with the first request for the
document, so that declarations cost nothing when the daemon wakes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepaudiod import errors
from stepaudiod.errors import StepaudiodError

if TYPE_CHECKING:
    from stepaudiod.web.schemas import Form

Handler = Callable[[Request], Awaitable[Response]]

JSON, EVENTS = "application/json", "text/event-stream"
TEXT, HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
BYTES = "application/octet-stream"

SPEECH, EDITS, TRANSCRIPTIONS = "Speech", "Edits", "Transcriptions"
VOICES, MODELS, DAEMON = "Voices", "Models", "The daemon"

READS = (errors.InvalidRequest, errors.TooLarge, errors.TooSlow, errors.Busy, errors.DiskFull)
"""Errors of every endpoint that reads a body."""
NAMES_A_MODEL = (errors.NotFound, errors.EngineUnavailable)
WORKS = (
    *(*READS, *NAMES_A_MODEL, errors.Unsupported, errors.Stopping, errors.EngineError),
    *(errors.SynthesisFailed, errors.TookTooLong, errors.ModelFileError, errors.GpuFull, errors.WorkerLost),
)
"""Errors of every endpoint that reads a body and has an engine work on it."""


class Answer(NamedTuple):
    """A response other than an error.

    Attributes:
        description: what it is, where the schema does not say it.
        contents: media types, each with the names of its schemas in `openapi/answers.py`; text and bytes have
            none. Of several any may come; an event stream is made of them.
        headers: names in `openapi/responses.py`.
        links: ids of operations that take the answer's `id` as their path parameter `id`.
    """

    description: str = ""
    contents: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Parameter(NamedTuple):
    """A value beside the body, with an example and a regular expression that values match."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    example: str
    pattern: str | None = None


@dataclass(slots=True)
class endpoint:
    """Makes a handler an endpoint, with what the document says beside its docstring.

    Attributes:
        route: a method and a path of starlette. `HEAD` comes with `GET`; `{id:path}` may contain slashes.
        id: the operation's name in generated clients.
        tag: its chapter, one of the constants above.
        answers: the name of the schema of 200, which is JSON; or every answer by its status.
        errors: what the handler raises; errors that any request may meet are added.
        body: the forms of its body; with more than one, either is accepted.
        parameters: beside the body.
    """

    route: str
    id: str
    tag: str
    answers: str | dict[int, Answer]
    errors: tuple[type[StepaudiodError], ...] = ()
    body: tuple[type[Form], ...] = ()
    parameters: tuple[Parameter, ...] = ()

    def __call__(self, handler: Handler) -> Endpoint:
        return Endpoint(self, handler)


class Endpoint(Route):
    """A route with its declaration."""

    def __init__(self, declaration: endpoint, handler: Handler) -> None:
        self.method, path = declaration.route.split()
        super().__init__(path, handler, methods=[self.method])
        self.declaration = declaration
        answers = declaration.answers
        self.answers = {200: Answer(contents={JSON: (answers,)})} if isinstance(answers, str) else answers
