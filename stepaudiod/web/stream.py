"""Responses that are sent while they are made. They stop the work when the client disconnects."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stepaudiod.audio.formats import MEDIA_TYPES
from stepaudiod.errors import StepaudiodError
from stepaudiod.requests import Audio, EngineDescription, Facts, Result, Segment, SpeechRequest, Work
from stepaudiod.web.endpoint import BYTES, EVENTS, Answer
from stepaudiod.web.errors import error_body
from stepaudiod.web.ignored_fields import IGNORED
from stepaudiod.web.resolve import SOUND_HEADERS, work_headers

log = logging.getLogger(__name__)

T = TypeVar("T")

FACT_PREFIX = "X-StepAudio-"
MAX_FACT = 2000
"""Proxies refuse responses with more than a few kilobytes of headers."""
FRAMES_A_SECOND = 50
UNBUFFERED = {"X-Accel-Buffering": "no"}
"""Makes nginx pass on each piece at once."""

AUDIO: dict[str, tuple[str, ...]] = dict.fromkeys((BYTES, *MEDIA_TYPES.values()), ())
"""Content types for the document. `application/octet-stream`, which is never sent, comes first: it is
the only type of bytes that openapi-python-client generates code for."""
SPEECH_ANSWER = Answer(
    "Audio, sent while it is made; events where `stream_format` is `sse`.",
    AUDIO | {EVENTS: ("SpeechAudioDelta", "SpeechAudioDone", "Error")},
    (*SOUND_HEADERS, "X-StepAudio-Voice", "X-StepAudio-Instructions", IGNORED),
)


class StreamedResponse(Response):
    """Pieces sent as they are made.

    An error before the first piece is raised and answered with its status. After it, the body is left without
    its end, which is HTTP/1.1's only sign of a failure: the client sees that it is incomplete.

    `work_headers` and facts that come before the first audio are added to the headers.
    """

    caching: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        request: Request,
        engine: EngineDescription,
        work: Work,
        headers: dict[str, str],
        format: str | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        headers = headers | work_headers(request, engine, work, warnings) | UNBUFFERED | self.caching
        super().__init__(headers=headers, media_type=self.media_type or MEDIA_TYPES[format or ""])
        del self.headers["content-length"]
        state, service = request.scope["state"], request.app.state.service
        self._work = work
        self._facts: dict[str, str | int | float] = {}
        self._pieces: AsyncIterator[Result] = service.run(
            engine, work, format, state["request_id"], state["caller"], state["share"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnect):
            await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(self._pieces) as pieces:  # type: ignore[type-var]
            first = await anext(pieces, None)
            while isinstance(first, Facts):
                self._facts |= first.values
                self._tell(first)
                first = await anext(pieces, None)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                if first is not None:
                    await send(_part(self.body_of(first)))
                async for piece in pieces:
                    if isinstance(piece, Facts):
                        self._facts |= piece.values
                    elif body := self.body_of(piece):
                        await send(_part(body))
            except StepaudiodError as error:
                log.warning("a response was cut off after it had begun: %s", error.code)
                if body := self.complaint(error):
                    await send(_part(body))
                return
        await send({"type": "http.response.body", "body": self.last(), "more_body": False})

    def _tell(self, facts: Facts) -> None:
        """Add facts to the headers: `reference_stretch` is `X-StepAudio-Reference-Stretch`."""
        for name, value in facts.values.items():
            title = "-".join(word.capitalize() for word in name.split("_"))
            said = quote(str(value), safe=" ,;:./-+()[]'")
            if len(said) <= MAX_FACT:
                self.headers[FACT_PREFIX + title] = said

    def body_of(self, piece: Result) -> bytes:
        return piece.data if isinstance(piece, Audio) else b""

    def last(self) -> bytes:
        """The bytes after the last piece."""
        return b""

    def complaint(self, error: StepaudiodError) -> bytes:
        """What to send before the connection is closed, in a format that can contain an error."""
        return b""


class CollectedResponse(StreamedResponse):
    """A response that is rendered from all pieces, so that every error gets its status."""

    def __init__(
        self,
        request: Request,
        engine: EngineDescription,
        work: Work,
        headers: dict[str, str],
        media_type: str,
        render: Callable[[list[Segment], dict[str, str | int | float]], bytes],
    ) -> None:
        self.media_type = media_type
        super().__init__(request, engine, work, headers)
        self._render = render

    async def _send(self, send: Send) -> None:
        segments: list[Segment] = []
        facts: dict[str, str | int | float] = {}
        async with contextlib.aclosing(self._pieces) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if isinstance(piece, Segment):
                    segments.append(piece)
                elif isinstance(piece, Facts):
                    facts |= piece.values
        body = self._render(segments, facts)
        self.headers["content-length"] = str(len(body))
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class EventResponse(StreamedResponse):
    """Server-sent events (HTML standard); an error is an event too."""

    media_type = EVENTS
    caching: ClassVar[dict[str, str]] = {"Cache-Control": "no-cache"}

    def complaint(self, error: StepaudiodError) -> bytes:
        """An event `error`, which OpenAI's clients raise."""
        return event(json.loads(error_body(error.message, 500, error.code)))


class SpeechEvents(EventResponse):
    """OpenAI's `speech.audio.delta` with base64 audio, then `speech.audio.done` with the usage.

    The usage counts the language model's tokens. Of engines without one it counts characters as input and
    20 ms of audio as output.
    """

    _audio_s = 0.0

    def body_of(self, piece: Result) -> bytes:
        if not isinstance(piece, Audio):
            return b""
        self._audio_s += piece.duration_s
        if not piece.data:
            return b""
        return event({"type": "speech.audio.delta", "audio": base64.b64encode(piece.data).decode()})

    def last(self) -> bytes:
        work = self._work
        text = work.text if isinstance(work, SpeechRequest) else ""
        read = int(self._facts.get("input_tokens", len(text)))
        written = int(self._facts.get("output_tokens", math.ceil(self._audio_s * FRAMES_A_SECOND)))
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        return event({"type": "speech.audio.done", "usage": usage})


SPEECH_RESPONSES: dict[str, type[StreamedResponse]] = {"audio": StreamedResponse, "sse": SpeechEvents}
"""By the form's `stream_format`."""


def event(data: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _part(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def while_connected(receive: Receive, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, and cancel it if the client disconnects.

    Raises:
        ClientDisconnect: the client has disconnected.
    """
    work = asyncio.create_task(coroutine)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
    raise ClientDisconnect


async def _disconnected(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
