"""`/v1/audio/voices`: voices made from recordings, in OpenAI's form."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import aclosing
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.engines.registry import PROBE
from stepaudiod.engines.whisper.certainty import is_guess
from stepaudiod.errors import EngineUnavailable, InvalidRequest, NotFound, Unsupported
from stepaudiod.requests import Recording, Segment, TranscriptionRequest, Voice
from stepaudiod.voice_library import StoredVoice, VoiceLibrary
from stepaudiod.web.body import read_multipart
from stepaudiod.web.endpoint import BYTES, JSON, NAMES_A_MODEL, VOICES, WORKS, Answer, Parameter, endpoint
from stepaudiod.web.errors import name_params
from stepaudiod.web.ignored_fields import IGNORED, ignored
from stepaudiod.web.resolve import caller_of, find_engine
from stepaudiod.web.schemas import VoiceForm
from stepaudiod.web.stream import while_connected

RECORDING_TYPES = {
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".mp4": "audio/mp4",
    ".aac": "audio/aac",
    ".webm": "audio/webm",
}
"""The suffix comes from the client: a browser gets any other file as plain bytes."""
RECORDED: dict[str, tuple[str, ...]] = dict.fromkeys((BYTES, *RECORDING_TYPES.values()), ())
VOICE_ID = Parameter("id", "path", "a voice of the library", "aunt-mei")
RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})|bytes=-([1-9]\d{0,17})")


def _library(request: Request) -> VoiceLibrary:
    if "id" in request.path_params:
        name_params(request, {"voice": "id"})
    settings: Settings = request.app.state.settings()
    caller = caller_of(request) if settings.access.private_voices else None
    return VoiceLibrary(settings.voices_path, caller)


def _describe(voice: StoredVoice) -> dict[str, Any]:
    fields = voice._asdict() | {"object": "audio.voice", "created_at": voice.created, "type": "audio_sample"}
    return {name: value for name, value in fields.items() if name not in ("created", "owner")}


MADE = Answer("", {JSON: ("MadeVoice",)}, (IGNORED,), ("getVoice", "deleteVoice", "getVoiceRecording"))


@endpoint("POST /v1/audio/voices", "createVoice", VOICES, {200: MADE}, errors=WORKS, body=(VoiceForm,))
async def create(request: Request) -> Response:
    """Make a voice from a recording, in OpenAI's form.

    Speech requests may name it from then on. Without `transcript` a recogniser transcribes it.
    """
    form, uploads = await read_multipart(request, VoiceForm)
    sample = uploads["audio_sample"]
    library = _library(request)
    library.require_free(form.name)
    name_params(request, {"recording": "audio_sample"})
    recording = Recording(str(sample), form.transcript)
    try:
        heard = await while_connected(request.receive, _listen(request, recording))
    except ClientDisconnect:
        raise InvalidRequest("The client disconnected before the voice was stored.") from None
    transcript = form.transcript.strip() or heard
    more = form.model_dump(include={"description", "language", "gender"})
    voice = await asyncio.to_thread(library.create, form.name, sample, transcript, form.consent, **more)
    return JSONResponse(_describe(voice), headers=ignored(form.unknown()))


async def _listen(request: Request, recording: Recording) -> str:
    """What the recording says, if the form has no transcript. Decodes it anyway, to refuse other files."""
    service: Dispatcher = request.app.state.service
    engine = PROBE
    if not recording.transcript.strip():
        try:
            engine = service.choice("transcribe").engine
        except EngineUnavailable as error:
            raise InvalidRequest(
                f"'transcript' is required: no recogniser is installed. {error}", "transcript"
            ) from None
    work = TranscriptionRequest(recording)
    try:
        state = request.scope["state"]
        results = service.run(engine, work, None, state["request_id"], state["caller"], state["share"])
        async with aclosing(results) as pieces:  # type: ignore[type-var]
            heard = [piece async for piece in pieces if isinstance(piece, Segment)]
    except Unsupported as error:
        raise InvalidRequest(f"'transcript' is required. {error}", "transcript") from None
    if is_guess(heard):
        raise InvalidRequest(
            f"'transcript' is required: the recogniser {engine.name} isn't sure what the recording says.",
            "transcript",
        )
    if engine is not PROBE and not heard:
        raise InvalidRequest(
            f"The recogniser {engine.name} heard no words in the recording. Send its 'transcript'.",
            "transcript",
        )
    return " ".join(segment.text for segment in heard)


MODEL = Parameter("model", "query", "list the voices of this model only", "hibari")


@endpoint("GET /v1/audio/voices", "listVoices", VOICES, "VoiceList", NAMES_A_MODEL, parameters=(MODEL,))
async def list_voices(request: Request) -> Response:
    """List all voices: those made from recordings, and those that come with the engines.

    `voices` has those that `tts-1`, or `model`, can use now, in the form of Kokoro-FastAPI.
    """
    service: Dispatcher = request.app.state.service
    caller = caller_of(request)
    model = request.query_params.get("model")
    made = [_describe(voice) for voice in _library(request).list()]
    own = {each["id"] for each in made}
    shipped = [
        {"id": voice.id, "object": "audio.voice", "name": voice.id, "created_at": 0, "type": "built_in"}
        | {"model": engine.name, "description": voice.description, "language": voice.language}
        for engine in service.catalog.seen_by(caller).installed()
        for voice in engine.voices
        if voice.id not in own
    ]
    data = [*made, *shipped]
    speaking = find_engine(service, model, caller=caller).voices if model else _serving(service, caller)
    named = {voice.id: voice.name or voice.id for voice in speaking}
    if model:
        data = [each for each in data if each["id"] in named]
    names = [{"id": each["id"], "name": named[each["id"]]} for each in data if each["id"] in named]
    return JSONResponse({"object": "list", "data": data, "has_more": False, "voices": names})


def _serving(service: Dispatcher, caller: str) -> tuple[Voice, ...]:
    """The voices of the default speech engine; none without one."""
    try:
        return service.choice(caller=caller).engine.voices
    except EngineUnavailable:
        return ()


@endpoint("GET /v1/audio/voices/{id}", "getVoice", VOICES, "MadeVoice", (NotFound,), (), (VOICE_ID,))
async def get(request: Request) -> Response:
    """Get one voice that was made from a recording."""
    return JSONResponse(_describe(_library(request).get(request.path_params["id"])))


@endpoint(
    "GET /v1/audio/voices/{id}/recording",
    "getVoiceRecording",
    VOICES,
    {
        200: Answer("The recording.", RECORDED, ("Accept-Ranges",)),
        206: Answer("A range of it.", RECORDED, ("Accept-Ranges", "Content-Range")),
    },
    errors=(NotFound,),
    parameters=(
        VOICE_ID,
        Parameter("Range", "header", "one range of bytes; any other is ignored", "bytes=0-1023", "^bytes="),
    ),
)
async def recording(request: Request) -> Response:
    """Get the recording that a voice was made from, unchanged."""
    path = _library(request).recording(request.path_params["id"])
    media_type = RECORDING_TYPES.get(path.suffix, BYTES)
    return RecordingResponse(path, media_type=media_type, headers={"X-Content-Type-Options": "nosniff"})


class RecordingResponse(FileResponse):
    """A recording, sent to its end even if its voice is deleted meanwhile."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            held = open(self.path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            raise NotFound("The voice has just been deleted.", "id") from None
        with held:
            self.path = f"/proc/self/fd/{held.fileno()}"  # valid after the file is removed
            asked = dict(scope["headers"]).get(b"range", b"").decode("latin-1")
            if not _is_range(asked, os.fstat(held.fileno()).st_size):
                # RFC 9110, 14.2: a server may ignore a range; players that seek send valid ones
                scope["headers"] = [header for header in scope["headers"] if header[0] != b"range"]
            await super().__call__(scope, receive, send)


def _is_range(header: str, size_bytes: int) -> bool:
    """Whether it names one range within the file."""
    found = RANGE.fullmatch(header)
    if found is None:
        return False
    start, end, _ = found.groups()
    return not start or (int(start) < size_bytes and int(end or size_bytes) >= int(start))


@endpoint(
    "DELETE /v1/audio/voices/{id}",
    "deleteVoice",
    VOICES,
    "DeletedVoice",
    errors=(InvalidRequest, NotFound),
    parameters=(VOICE_ID,),
)
async def delete(request: Request) -> Response:
    """Delete a voice and everything that was made of it."""
    id = request.path_params["id"]
    library = _library(request)
    service: Dispatcher = request.app.state.service
    if any(voice.id == id for engine in service.catalog.engines for voice in engine.voices):
        try:
            library.get(id)
        except NotFound:
            raise InvalidRequest(
                f"The voice {id!r} comes with an engine and can't be deleted.", "id"
            ) from None
    await asyncio.to_thread(library.delete, id)
    return JSONResponse({"id": id, "object": "audio.voice.deleted", "deleted": True})
