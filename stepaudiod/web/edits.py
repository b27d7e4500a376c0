"""`POST /v1/audio/edits`: a recording in, the changed one out; and `GET /v1/tags`, what can be changed."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.edits import OPTIONS, Edit, require_tag
from stepaudiod.engines.registry import can
from stepaudiod.errors import EngineUnavailable
from stepaudiod.requests import EditRequest, Recording
from stepaudiod.tags import LANGUAGES
from stepaudiod.web.body import check_length, read_multipart
from stepaudiod.web.endpoint import EDITS, WORKS, Answer, endpoint
from stepaudiod.web.errors import name_params
from stepaudiod.web.ignored_fields import IGNORED, ignored
from stepaudiod.web.resolve import SOUND_HEADERS, engine_for, is_marked
from stepaudiod.web.schemas import EditForm
from stepaudiod.web.stream import AUDIO, StreamedResponse

PARAMS = {"kind": "mode", "info": "edit_info", "recording": "file"}
"""Fields of an edit and its recording, and their names in this form."""

EDITED = Answer("The changed recording, sent while it is made.", AUDIO, (*SOUND_HEADERS, IGNORED))


@endpoint("POST /v1/audio/edits", "createEdit", EDITS, {200: EDITED}, errors=WORKS, body=(EditForm,))
async def edits(request: Request) -> Response:
    """Change a recording: its emotion, style or speed, its noise and silence, its laughs and sighs.

    `GET /v1/tags` lists the modes and the options of each.
    """
    service: Dispatcher = request.app.state.service
    settings: Settings = request.app.state.settings()
    form, uploads = await read_multipart(request, EditForm)
    name_params(request, PARAMS)
    edit = Edit(form.mode, form.edit_info, form.text, form.intensity, form.iterations)
    if edit.kind == "paralinguistic":
        require_tag(edit.text or "")
    for param, text in (("text", form.text or ""), ("transcript", form.transcript)):
        check_length(text, settings, param)
    engine = engine_for(service, form.model, form.mode)
    recording = Recording(str(uploads["file"]), form.transcript)
    wanted = EditRequest(recording, edit, form.seed, is_marked(request))
    return StreamedResponse(request, engine, wanted, ignored(form.unknown()), form.response_format)


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
