"""`POST /v1/audio/speech`: text in, audio out as it is made."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from stepaudiod.audio.formats import MEDIA_TYPES
from stepaudiod.config import Settings
from stepaudiod.engines.voices import require_speakable, resolve_voice
from stepaudiod.errors import InvalidRequest
from stepaudiod.service import Service
from stepaudiod.speech import EngineDescription, SpeechRequest
from stepaudiod.web.body import read_form
from stepaudiod.web.schemas import SpeechForm
from stepaudiod.web.stream import StreamedResponse

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
    audio = service.run(engine, wanted, form.response_format, request.scope["state"]["request_id"])
    return StreamedResponse(audio, MEDIA_TYPES[form.response_format], headers)


def _engine(service: Service, model: str) -> EngineDescription:
    """The engine that a request's `model` means."""
    return service.choice().engine if model in OPENAI_MODELS else service.catalog.get(model)


def _check_length(text: str, settings: Settings) -> None:
    """Refuse a text that is longer than the configuration allows."""
    limit = settings.limits.max_text
    if len(text) > limit:
        message = f"'input' has {len(text):,} characters; at most {limit:,} are allowed (limits.max_text)."
        raise InvalidRequest(f"{message} Send it in parts.", "input")
