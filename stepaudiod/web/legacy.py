"""The API of the old containers, unchanged: `step_audio` in a speech request, and uploads.

    {"model": "step-audio-editx", "voice": "happy_en", "input": "...", "metadata": {...},
     "step_audio": {"mode": "emotion", "edit_info": "happy", "input_audio_base64": "...", ...}}

Fields that a mode does not use are ignored, as they were there; the header `X-StepAudio-Ignored` names them.
Emotions, styles and speeds that are not known are ignored too: `legacy_edits.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.engines.local_models import OLD_VARIANTS, STEP_AUDIO
from stepaudiod.engines.registry import UNCHANGED, can
from stepaudiod.engines.voice_names import OLD_VOICES
from stepaudiod.errors import InvalidRequest
from stepaudiod.requests import EditRequest, EngineDescription, Recording, SpeechRequest
from stepaudiod.web.body import Spool, check, check_length, read_multipart
from stepaudiod.web.endpoint import SPEECH, WORKS, endpoint
from stepaudiod.web.errors import name_params
from stepaudiod.web.fetch import Fetcher
from stepaudiod.web.ignored_fields import ignored
from stepaudiod.web.inline import ABOVE, FIELDS, cut
from stepaudiod.web.legacy_edits import FoundEdit, find_edit, find_feeling
from stepaudiod.web.legacy_schemas import OldSpeechForm, StepAudioForm, UploadForm
from stepaudiod.web.model_names import Meaning, meaning, without_organisation
from stepaudiod.web.resolve import caller_of, engine_for, is_marked, resolve_speech
from stepaudiod.web.stream import SPEECH_ANSWER, SPEECH_RESPONSES

OF_OLD = ("stream", "metadata")
"""Fields of the old form that other servers have too: they mark an old request only without `model`."""
EVERY_MODE = {"model", "response_format", "stream", "stream_format", "metadata", "step_audio", "seed"}
"""Fields that every mode uses, beside `mode` and `model_variant`."""
UPLOAD_PATH = "/v1/audio/speech/upload"
TRANSCRIPTS = ("prompt_text", "audio_text")
URLS = ("prompt_audio_url", "input_audio_url")
PARAMS = {
    "kind": ABOVE + "mode",
    "info": ABOVE + "edit_info",
    "intensity": ABOVE + "intensity",
    "iterations": ABOVE + "n_edit_iter",
    "text": "input",
}
"""Fields of an edit, and their names in this form."""

MAX_METADATA = 16
MAX_METADATA_BYTES = 4096
METADATA_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def is_old(body: bytes) -> bool:
    """Whether a request to /v1/audio/speech is in the old form.

    It has `step_audio`, or it leaves out what OpenAI requires, as only the old form could: it names no model
    but Step-Audio-EditX and no voice but those of the old containers; or no model at all, beside `stream` or
    `metadata`. Null is the same as absent.
    """
    try:
        table = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(table, dict):
        return False
    given = {name: value for name, value in table.items() if value is not None}
    if "step_audio" in given or ("model" not in given and any(name in given for name in OF_OLD)):
        return True
    voice = given.get("voice")
    return given.get("model", STEP_AUDIO) == STEP_AUDIO and (
        voice is None or (isinstance(voice, str) and voice in OLD_VOICES)
    )


@endpoint(
    f"POST {UPLOAD_PATH}", "createSpeechFromUploads", SPEECH, {200: SPEECH_ANSWER}, WORKS, (UploadForm,)
)
async def upload(request: Request) -> Response:
    """Speak or edit in the old containers' form, with recordings as files.

    `payload` is the JSON of `OldSpeechForm`. Its `metadata` is returned in headers `x-metadata-NAME`.
    """
    settings: Settings = request.app.state.settings()
    form, _ = await read_multipart(request, UploadForm)
    body = await cut(form.payload, request.scope["state"]["spool"], settings)
    return await answer(request, body, form.unknown(), "payload")


class Naming(NamedTuple):
    """How a request names its fields, where its form isn't the old one.

    Attributes:
        names: its names of the old form's fields, where they differ.
        recording: its field for the recording to change.
        how: how to send that, for an error.
    """

    names: Mapping[str, str]
    recording: str
    how: str

    def __call__(self, field: str) -> str:
        return self.names.get(field, field)


AS_DOCUMENTED = Naming(
    {},
    ABOVE + "input_audio_base64",
    f"in step_audio.input_audio_base64, behind step_audio.input_audio_url, or as the file input_audio_file "
    f"to {UPLOAD_PATH}",
)


async def answer(
    request: Request, body: bytes, unknown: Iterable[str] = (), part: str | None = None
) -> Response:
    """Serve a request in the old form, whose JSON is the body or that part of it.

    `unknown` has the names of unknown fields beside the JSON.
    """
    form = check(OldSpeechForm, body, part)
    naming = AS_DOCUMENTED._replace(recording="input_audio_file") if part else AS_DOCUMENTED
    return await serve(request, form, [*form.unknown(), *unknown], naming)


async def serve(request: Request, form: OldSpeechForm, unknown: Iterable[str], naming: Naming) -> Response:
    """Serve a request whose recordings are in its spool; `unknown` has the names of unknown fields."""
    settings: Settings = request.app.state.settings()
    renamed = {field: naming(name) for field, name in PARAMS.items()} | {"recording": naming.recording}
    name_params(request, {**naming.names, **renamed})
    options = form.step_audio
    for param, text in (("input", form.input), *((ABOVE + n, getattr(options, n)) for n in TRANSCRIPTS)):
        check_length(text or "", settings, naming(param))
    headers = metadata_headers(form.metadata or {})
    sources = Sources(request, options, request.scope["state"]["spool"], settings, naming)
    await sources.decode_rest()
    if options.mode == "clone":
        plan = await _clone(request, form, sources)
    else:
        plan = await _edit(request, form, sources)
    given = _given(form, EVERY_MODE) | {ABOVE + n for n in _given(options, {"mode", "model_variant"})}
    unused = sorted((given | {*sources.given()}) - plan.used)
    headers |= plan.headers | ignored([*(naming(name) for name in (*plan.unused, *unused)), *unknown])
    respond = SPEECH_RESPONSES[form.stream_format]
    work = plan.work._replace(is_streamed=form.stream or form.stream_format == "sse")
    return respond(request, plan.engine, work, headers, form.response_format, plan.warnings)


class Plan(NamedTuple):
    """The work of a request."""

    engine: EngineDescription
    work: SpeechRequest | EditRequest
    used: set[str]
    """Fields that it uses, beside those of every mode."""
    headers: dict[str, str]
    warnings: tuple[str, ...]
    unused: tuple[str, ...] = ()
    """Fields whose value can't be followed."""


class Sources(NamedTuple):
    """The recordings of a request: of several for one purpose a file wins, then base64, then a URL."""

    request: Request
    options: StepAudioForm
    spool: Spool
    settings: Settings
    naming: Naming

    async def decode_rest(self) -> None:
        """Decode base64 whose field's name was escaped, so that it was not recognised in the body."""
        for field in FIELDS:
            if text := getattr(self.options, field):
                await self.spool.open()
                await cut(json.dumps({field: text}), self.spool, self.settings)

    def given(self) -> list[str]:
        urls = [f for f in URLS if getattr(self.options, f)]
        return [*self.spool.uploads, *(ABOVE + field for field in urls)]

    def find(self, purpose: str) -> str | None:
        """The name of the recording for a purpose, `prompt` or `input`."""
        audio = f"{purpose}_audio"
        names = (f"{audio}_file", f"{ABOVE}{audio}_base64", f"{ABOVE}{audio}_url")
        return next((name for name in names if name in self.given()), None)

    async def get(self, name: str, transcript: str) -> Recording:
        """The recording that `find` returned, with its transcript from that field of `step_audio`.

        Raises:
            InvalidRequest: it isn't base64, or can't be fetched from its URL.
        """
        uploads, settings = self.spool.uploads, self.settings
        if name in self.spool.refused:
            raise InvalidRequest(self.spool.refused[name], name)
        if name not in uploads:
            if not settings.allow_url_fetch:
                raise InvalidRequest(
                    "Recordings behind URLs aren't fetched here: allow_url_fetch is off. Send the recording "
                    f"itself, in base64 or as a file to {UPLOAD_PATH}.",
                    name,
                )
            fetcher = Fetcher(settings.limits.max_upload, settings.timeouts.fetch)
            path = self.spool.new_path("recording.bin")
            await fetcher.fetch(getattr(self.options, name.removeprefix(ABOVE)), path, name)
            uploads[name] = path
        said = getattr(self.options, transcript) or ""
        naming = self.naming
        name_params(self.request, {"recording": naming(name), "transcript": naming(ABOVE + transcript)})
        return Recording(str(uploads[name]), said)


async def _clone(request: Request, form: OldSpeechForm, sources: Sources) -> Plan:
    """Speech in a recording's voice or a named one, with the emotion or style of `edit_info`."""
    service, caller = request.app.state.service, caller_of(request)
    found = find_feeling(form.step_audio)
    edit = found.edit
    name = sources.find("prompt")
    engine = _engine(service, form, "clone" if name else "speak" if edit is None else edit.kind, caller)
    used = {"input", "speed", "language", "lang_code"} | (
        {"instructions"} if edit is None else _fields(found)
    )
    if name is None:
        engine = engine_for(service, engine.name, "speak", caller)
        engine, work, headers, unused = resolve_speech(request, form, engine, edit)
        return Plan(engine, work, used | {"voice"}, headers, found.warnings, unused)
    engine, work, headers, unused = resolve_speech(request, form, engine, edit, has_reference=True)
    work = work._replace(reference=await sources.get(name, "prompt_text"))
    return Plan(engine, work, used | {name, ABOVE + "prompt_text"}, headers, found.warnings, unused)


async def _edit(request: Request, form: OldSpeechForm, sources: Sources) -> Plan:
    """A changed recording."""
    options, naming = form.step_audio, sources.naming
    found = find_edit(options, form.input)
    need = UNCHANGED if found.edit is None else found.edit.kind
    engine = need if isinstance(need, EngineDescription) else _engine(request.app.state.service, form, need)
    name = sources.find("input")
    if name is None:
        raise InvalidRequest(
            f"The mode {options.mode} needs a recording to change, {naming.how}.", naming.recording
        )
    recording = await sources.get(name, "audio_text")
    work = EditRequest(recording, found.edit, form.seed, is_marked(request))
    return Plan(engine, work, _fields(found) | {name, ABOVE + "audio_text"}, {}, found.warnings)


def _fields(found: FoundEdit) -> set[str]:
    return {name if name == "input" else ABOVE + name for name in found.used}


def _engine(service: Dispatcher, form: OldSpeechForm, need: str, caller: str = "") -> EngineDescription:
    """The engine for a need. The old form had one model: without it, another engine that can do the work."""
    variant = form.step_audio.model_variant
    is_old = without_organisation(form.model) == STEP_AUDIO
    if variant is not None:
        if not (is_old or meaning(form.model) == Meaning("speak")):
            raise InvalidRequest(
                f"The model {form.model[:80]!r} has no variants; {STEP_AUDIO} has.", ABOVE + "model_variant"
            )
        return engine_for(service, f"{STEP_AUDIO}-{OLD_VARIANTS[variant]}", need, caller)
    able = [engine.name for engine in service.catalog.seen_by(caller).installed() if can(engine, need)]
    if is_old and able and STEP_AUDIO not in able:
        return service.choice(need, caller).engine
    return engine_for(service, form.model, need, caller)


def echoed(metadata: object) -> dict[str, str] | None:
    """The metadata of a request in OpenAI's form as headers; None if it is not an object of short texts."""
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return None
    try:
        return metadata_headers(metadata)
    except InvalidRequest:
        return None


def metadata_headers(metadata: dict[str, str]) -> dict[str, str]:
    """A request's metadata as headers, percent-encoded where needed.

    Raises:
        InvalidRequest: it is too long, or a name can't be a header's.
    """
    headers = {}
    for name, value in metadata.items():
        if not METADATA_NAME.fullmatch(name):
            raise InvalidRequest(
                f"The metadata's name {name[:80]!r} can't be a header's: 1 to 64 letters, digits, '_', '.' "
                "and '-' can.",
                "metadata",
            )
        headers[f"x-metadata-{name}"] = "".join(c if " " <= c <= "~" else quote(c) for c in value)
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > MAX_METADATA or size > MAX_METADATA_BYTES:
        raise InvalidRequest(
            f"There is too much metadata: {len(headers)} names and {size:,} bytes of headers; at most "
            f"{MAX_METADATA} and {MAX_METADATA_BYTES:,} are sent back.",
            "metadata",
        )
    return headers


def _given(form: BaseModel, without: set[str]) -> set[str]:
    """The fields with another value than their default."""
    fields = type(form).model_fields
    return {n for n in fields if n not in without and getattr(form, n) not in ("", fields[n].default)}
