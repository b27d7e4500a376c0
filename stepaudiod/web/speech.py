"""`POST /v1/audio/speech`: text in, audio out as it is made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stepaudiod.audio.formats import MEDIA_TYPES
from stepaudiod.config import Settings
from stepaudiod.engines.voices import require_speakable, resolve_voice
from stepaudiod.errors import InvalidRequest, StepaudiodError
from stepaudiod.service import Service
from stepaudiod.speech import EngineDescription, SpeechRequest
from stepaudiod.web.body import read_form
from stepaudiod.web.schemas import SpeechForm
from stepaudiod.worker.process import Audio

log = logging.getLogger(__name__)

OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""OpenAI's own model names: they mean whichever engine this daemon runs."""


async def speech(request: Request) -> Response:
    """Speak, in OpenAI's form."""
    service: Service = request.app.state.service
    settings: Settings = request.app.state.settings()
    form = await read_form(request, SpeechForm, settings)
    _check_length(form.input, settings)
    engine = _engine(service, form.model)
    require_speakable(engine, form.input)
    voice = form.voice if isinstance(form.voice, str) else form.voice.id
    wanted = SpeechRequest(form.input, resolve_voice(engine, voice, form.input), form.speed, form.seed)
    headers = {"X-StepAudio-Model": engine.name}
    if form.instructions:
        headers["X-StepAudio-Ignored"] = "instructions"
    audio = service.speak(engine, wanted, form.response_format, request.scope["state"]["request_id"])
    return AudioResponse(audio, MEDIA_TYPES[form.response_format], headers)


def _engine(service: Service, model: str) -> EngineDescription:
    """The engine that a request's `model` means."""
    return service.choice().engine if model in OPENAI_MODELS else service.catalog.get(model)


def _check_length(text: str, settings: Settings) -> None:
    """Refuse a text that is longer than the configuration allows."""
    limit = settings.limits.max_text
    if len(text) > limit:
        message = f"'input' has {len(text):,} characters; at most {limit:,} are allowed (limits.max_text)."
        raise InvalidRequest(f"{message} Send it in parts.", "input")


class AudioResponse(Response):
    """Audio sent as it is made. Stops the work when the client goes, cuts the connection when the work fails.

    An error before the first chunk is raised, and answered with its status. After it, the only honest sign
    that HTTP/1.1 has is a body without its end: the client sees that the audio isn't complete.
    """

    def __init__(self, audio: AsyncIterator[Audio], media_type: str, headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._audio = audio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the last chunk, or until the client is gone."""
        work = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _send(self, send: Send) -> None:
        """The audio, chunk by chunk."""
        async with contextlib.aclosing(self._audio) as chunks:  # type: ignore[type-var]
            first = await anext(chunks, None)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                if first is not None:
                    await send({"type": "http.response.body", "body": first.data, "more_body": True})
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk.data, "more_body": True})
            except StepaudiodError as error:
                log.warning("a response was cut off after it had begun: %s", error)
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
