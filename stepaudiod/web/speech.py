"""`POST /v1/audio/speech`: text in, audio out as it is made, as plain bytes or as events."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from stepaudiod.audio.formats import MEDIA_TYPES
from stepaudiod.config import Settings
from stepaudiod.engines.instructions import Followed, follow
from stepaudiod.engines.voices import require_speakable, resolve_voice
from stepaudiod.errors import InvalidRequest
from stepaudiod.model.edits import with_language
from stepaudiod.service import Service
from stepaudiod.speech import EngineDescription, Facts, SpeechRequest
from stepaudiod.web.body import read_form
from stepaudiod.web.engines import engine_for
from stepaudiod.web.schemas import SpeechForm
from stepaudiod.web.stream import EventResponse, StreamedResponse, event
from stepaudiod.worker.process import Audio, Result

FRAMES_A_SECOND = 50


async def speech(request: Request) -> Response:
    """Speak, in OpenAI's form."""
    service: Service = request.app.state.service
    settings: Settings = request.app.state.settings()
    form = await read_form(request, SpeechForm, settings)
    check_length(form.input, settings)
    engine = engine_for(service, form.model, "speak")
    require_speakable(engine, form.input)
    voice = resolve_voice(engine, form.voice if isinstance(form.voice, str) else form.voice.id, form.input)
    followed, headers = _follow(engine, form.instructions)
    if form.language is not None:
        require_language(engine, form.language)
    wanted = SpeechRequest(
        form.input,
        voice,
        form.speed,
        form.seed,
        language=form.language or followed.language,
        change=followed.change,
    )
    pieces = service.run(engine, wanted, form.response_format, request.scope["state"]["request_id"])
    headers["X-StepAudio-Model"] = engine.name
    if form.stream_format == "sse":
        return SpeechEvents(pieces, headers, len(form.input))
    return StreamedResponse(pieces, MEDIA_TYPES[form.response_format], headers)


def _follow(engine: EngineDescription, instructions: str | None) -> tuple[Followed, dict[str, str]]:
    """What of the instructions the engine can follow, and the headers that say so."""
    if not instructions:
        return Followed(), {}
    followed = follow(instructions)
    if followed.said and "style" in engine.capabilities.edits:
        return followed, {"X-StepAudio-Instructions": followed.said}
    return Followed(), {"X-StepAudio-Ignored": "instructions"}


def require_language(engine: EngineDescription, language: str) -> None:
    """Refuse a language that the engine can't be told.

    Raises:
        InvalidRequest: there is no such language, or the engine finds it out by itself.
    """
    with_language("", language)
    if not engine.capabilities.clone:
        raise InvalidRequest(
            f"The engine {engine.name} takes no 'language': it finds it out from the text.", "language"
        )


def check_length(text: str, settings: Settings, param: str = "input") -> None:
    """Refuse a text that is longer than the configuration allows.

    Raises:
        InvalidRequest: it is.
    """
    limit = settings.limits.max_text
    if len(text) > limit:
        message = f"{param!r} has {len(text):,} characters; at most {limit:,} are allowed (limits.max_text)."
        raise InvalidRequest(f"{message} Send it in parts.", param)


class SpeechEvents(EventResponse):
    """OpenAI's `speech.audio.delta` with base64 audio, then `speech.audio.done` with the usage.

    Tokens are the language model's. An engine that has none counts characters in, and out 20 ms of sound.

    Args:
        pieces: the work's results.
        headers: more of them.
        characters: of the text.
    """

    def __init__(self, pieces: AsyncIterator[Result], headers: dict[str, str], characters: int) -> None:
        super().__init__(pieces, headers)
        self._characters = characters
        self._audio_s = 0.0
        self._facts: dict[str, str | int | float] = {}

    def body_of(self, piece: Result) -> bytes:
        """A piece of audio as an event."""
        if not isinstance(piece, Audio):
            return b""
        self._audio_s += piece.duration_s
        if not piece.data:
            return b""
        return event({"type": "speech.audio.delta", "audio": base64.b64encode(piece.data).decode()})

    def note(self, facts: Facts) -> None:
        """What the model read and wrote comes at the end."""
        self._facts |= facts.values

    def last(self) -> bytes:
        """What it took."""
        read = int(self._facts.get("input_tokens", self._characters))
        written = int(self._facts.get("output_tokens", math.ceil(self._audio_s * FRAMES_A_SECOND)))
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        return event({"type": "speech.audio.done", "usage": usage})
