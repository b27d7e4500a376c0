"""`POST /v1/audio/speech`: text in, audio out as it is made, as plain bytes or as events."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from stepaudiod.config import Settings
from stepaudiod.web import legacy
from stepaudiod.web.body import check, check_length
from stepaudiod.web.endpoint import SPEECH, WORKS, endpoint
from stepaudiod.web.errors import name_params
from stepaudiod.web.ignored_fields import ignored
from stepaudiod.web.inline import read_json
from stepaudiod.web.legacy_schemas import OldSpeechForm
from stepaudiod.web.resolve import resolve_speech
from stepaudiod.web.schemas import SpeechForm
from stepaudiod.web.stream import SPEECH_ANSWER, SPEECH_RESPONSES


@endpoint(
    "POST /v1/audio/speech",
    "createSpeech",
    SPEECH,
    {200: SPEECH_ANSWER},
    errors=WORKS,
    body=(SpeechForm, OldSpeechForm),
)
async def speech(request: Request) -> Response:
    """Speak a text, in OpenAI's form.

    `pcm` is 24 kHz, 16 bit, little-endian, mono, without a header. The body is read as JSON whatever its
    `Content-Type` is. When the work fails after the first audio, the connection is closed without the end
    that HTTP requires; an event stream sends the error first.
    """
    settings: Settings = request.app.state.settings()
    body = await read_json(request, settings)
    if legacy.is_old(body):
        return await legacy.answer(request, body)
    form = check(SpeechForm, body)
    name_params(request, {"text": "input"})
    check_length(form.input, settings)
    resolved = resolve_speech(request, form)
    echo = legacy.echoed(form.metadata)
    unused = [*resolved.ignored, *(["metadata"] if echo is None else []), *form.unknown()]
    headers = resolved.headers | (echo or {}) | ignored(unused)
    respond = SPEECH_RESPONSES[form.stream_format]
    return respond(request, resolved.engine, resolved.work, headers, form.response_format)
