"""`POST /v1/audio/edits`: a recording in, the changed one out; and `GET /v1/tags`, what can be changed."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepaudiod.audio.formats import MEDIA_TYPES
from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.edits import OPTIONS, Edit, require_tag
from stepaudiod.engines.registry import can
from stepaudiod.errors import EngineUnavailable, InvalidRequest
from stepaudiod.requests import Change, EditRequest, Recording
from stepaudiod.tags import LANGUAGES
from stepaudiod.web.body import check_length, read_multipart
from stepaudiod.web.endpoint import EDITS, WORKS, Answer, endpoint
from stepaudiod.web.ignored_fields import IGNORED, ignored
from stepaudiod.web.resolve import SOUND_HEADERS, engine_for, start_work
from stepaudiod.web.schemas import EditForm
from stepaudiod.web.stream import AUDIO, StreamedResponse

PARAMS = {"n_edit_iter": "iterations"}
"""Names of fields in the model's own errors, and in this form."""


OF_RECORDING = ("X-StepAudio-Transcript", "X-StepAudio-Reference-Stretch")


@endpoint(
    "POST /v1/audio/edits",
    "createEdit",
    EDITS,
    {
        200: Answer(
            "The changed recording, sent while it is made.", AUDIO, (*SOUND_HEADERS, *OF_RECORDING, IGNORED)
        )
    },
    errors=WORKS,
    body=(EditForm,),
)
async def edits(request: Request) -> Response:
    """Change a recording: its emotion, style or speed, its noise and silence, its laughs and sighs.

    `GET /v1/tags` lists the modes and the options of each.
    """
    service: Dispatcher = request.app.state.service
    settings: Settings = request.app.state.settings()
    form, uploads = await read_multipart(request, EditForm)
    change = checked(Change(form.mode, form.edit_info, form.text, form.intensity, form.iterations), PARAMS)
    if change.mode == "paralinguistic":
        require_tag(change.text or "")
    for param, text in (("text", form.text or ""), ("transcript", form.transcript)):
        check_length(text, settings, param)
    engine = engine_for(service, form.model, form.mode)
    wanted = EditRequest(Recording(str(uploads["file"].path), form.transcript), change, form.seed)
    pieces, headers = start_work(request, engine, wanted, form.response_format)
    headers |= ignored(form.unknown())
    return StreamedResponse(pieces, MEDIA_TYPES[form.response_format], headers)


def checked(change: Change, params: dict[str, str]) -> Change:
    """The change, if its parts go together.

    Args:
        change: what the client wants.
        params: what the client calls the fields.

    Raises:
        InvalidRequest: they don't; names the field and lists what is right.
    """
    try:
        Edit(change.mode, change.info, change.text, change.intensity, change.iterations)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, params.get(error.param or "", error.param)) from None
    return change


@endpoint("GET /v1/tags", "listTags", EDITS, "Tags")
async def tags(request: Request) -> Response:
    """List every edit, its options, and the models that can do it here."""
    service: Dispatcher = request.app.state.service
    installed = service.catalog.installed()
    return JSONResponse(
        {
            "data": {mode: list(options) for mode, options in OPTIONS.items()},
            "languages": list(LANGUAGES),
            "models": {mode: [e.name for e in installed if can(e, mode)] for mode in OPTIONS},
            "missing": {need: service.catalog.how(need) for need in missing(service)},
        }
    )


def missing(service: Dispatcher) -> Iterator[str]:
    """Every kind of work that no installed engine can do."""
    for need in ("speak", "clone", "transcribe", *OPTIONS):
        try:
            service.choice(need)
        except EngineUnavailable:
            yield need
