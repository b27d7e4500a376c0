"""What an entry of the document is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from stepaudiod.errors import StepaudiodError
from stepaudiod.web.schemas import Form

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Body:
    """What a request carries.

    Attributes:
        form: the schema that checks it.
        example: values of its fields.
        other: another form of a JSON body.
        files: fields of a multipart form that hold files, and what each is; none: the body is JSON.
        optional_files: those of them that may be left out.
    """

    form: type[Form]
    example: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    optional_files: tuple[str, ...] = ()
    other: type[Form] | None = None


@dataclass(frozen=True)
class Content:
    """One form that an answer comes in.

    Attributes:
        schema: of JSON; None for bytes and text.
        example: of JSON or text.
        events: the schemas of the events that it is made of, in their order.
    """

    schema: type[BaseModel] | None = None
    example: Any = None
    events: tuple[type[BaseModel], ...] = ()


@dataclass(frozen=True)
class Answer:
    """One status of success.

    Attributes:
        description: what it means.
        contents: by media type.
        headers: names in `HEADERS`.
        links: operations that take a value of the answer, and the field and parameter that it is.
    """

    description: str
    contents: dict[str, Content]
    headers: tuple[str, ...] = ()
    links: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameter:
    """A value in the path, the query or a header.

    Attributes:
        name: as it is written.
        place: `path`, `query` or `header`.
        description: what it says.
        example: one that is sound.
        pattern: what it must look like.
    """

    name: str
    place: str
    description: str
    example: str
    pattern: str | None = None


@dataclass(frozen=True)
class Operation:
    """One path with one method.

    Attributes:
        id: its name for programs that generate clients.
        tag: its chapter.
        summary: one line.
        answers: by status.
        errors: what it raises; what every request may meet is added.
        body: what the request carries.
        parameters: beside the body.
        description: more, in Markdown.
    """

    id: str
    tag: str
    summary: str
    answers: dict[int, Answer]
    errors: tuple[type[StepaudiodError], ...] = ()
    body: Body | None = None
    parameters: tuple[Parameter, ...] = ()
    description: str = ""


HEADERS = {
    "X-Request-Id": "names the request in the journal; the one that you sent, where it is sound",
    "Retry-After": "whole seconds until it is worth asking again",
    "Connection": "`close`: the rest of the request isn't read",
    "X-StepAudio-Model": "the model that did it",
    "X-StepAudio-Synthetic": "the sound is synthetic, and how it was made: `generated; model=kokoro`, or "
    "for an edit `edited; model=studio`. Absent where marking.metadata is off",
    "X-StepAudio-Voice": "the voice that spoke, by its id",
    "X-StepAudio-Seed": "the seed; the same one gives the same audio. Step-Audio-EditX only",
    "X-StepAudio-Instructions": "what of `instructions` was followed, for instance `style=whisper`",
    "X-StepAudio-Ignored": "fields that were given and not used, with commas between: those that are unknown "
    "here, `instructions` or a language that can't be followed, in the old form what the mode doesn't use",
    "X-StepAudio-Warning": "names in brackets that are no tags and are passed on as text, percent-encoded. "
    "Step-Audio-EditX only",
    "X-StepAudio-Pieces": "into how many pieces the text was cut",
    "X-StepAudio-Reference-Stretch": "which seconds of a long recording were used",
    "X-StepAudio-Transcript": "what a recogniser heard in the recording, percent-encoded",
    "WWW-Authenticate": "`Bearer`, or `Basic` where a browser asks for a page",
    "Accept-Ranges": "`bytes`",
    "Content-Range": "which bytes these are",
    "Content-Security-Policy": "the page may load nothing from anywhere",
    "Location": "where it is",
}
"""Every header that an answer may have beside HTTP's own."""
