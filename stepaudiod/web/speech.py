"""`POST /v1/audio/speech`: text in, audio out as it is made, as plain bytes or as events."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.engines.voice_names import require_speakable, resolve_voice
from stepaudiod.requests import SpeechRequest
from stepaudiod.web import legacy
from stepaudiod.web.body import check, check_length
from stepaudiod.web.ignored_fields import ignored
from stepaudiod.web.inline import read_json
from stepaudiod.web.resolve import (
    caller_of,
    engine_for,
    follow_instructions,
    follow_language,
    sound_headers,
    work_for,
)
from stepaudiod.web.schemas import SpeechForm
from stepaudiod.web.stream import speech_response


async def speech(request: Request) -> Response:
    """Speak, in OpenAI's form; a request in the old containers' form is handed over."""
    service: Dispatcher = request.app.state.service
    settings: Settings = request.app.state.settings()
    body = await read_json(request, settings)
    if legacy.is_old(body):
        return await legacy.answer(request, body)
    form = check(SpeechForm, body)
    check_length(form.input, settings)
    engine = engine_for(service, form.model, "speak", caller_of(request))
    require_speakable(engine, form.input)
    voice = resolve_voice(engine, form.voice if isinstance(form.voice, str) else form.voice.id, form.input)
    followed, unused = follow_instructions(engine, form.instructions)
    language, not_heeded = follow_language(engine, form)
    wanted = SpeechRequest(
        form.input,
        voice,
        form.speed,
        form.seed,
        language=language or followed.language,
        edit=followed.edit,
    )
    headers = sound_headers(request, engine, wanted) | {"X-StepAudio-Voice": voice}
    if followed.said:
        headers["X-StepAudio-Instructions"] = followed.said
    echo = legacy.echoed(form.metadata)
    headers |= (echo or {}) | ignored(
        [*unused, *not_heeded, *(["metadata"] if echo is None else []), *form.unknown()]
    )
    pieces = work_for(request, engine, wanted, form.response_format)
    return speech_response(pieces, form, headers)
