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
from stepaudiod.errors import EngineUnavailable
from stepaudiod.requests import EditRequest, Recording
from stepaudiod.tags import LANGUAGES
from stepaudiod.web.body import check_length, read_multipart, required
from stepaudiod.web.errors import name_params
from stepaudiod.web.ignored_fields import ignored
from stepaudiod.web.resolve import engine_for, sound_headers, work_for
from stepaudiod.web.schemas import EditForm
from stepaudiod.web.stream import StreamedResponse

PARAMS = {"kind": "mode", "info": "edit_info", "recording": "file"}
"""The form's names of the fields of an edit and of its recording."""


async def edits(request: Request) -> Response:
    """Change a recording."""
    service: Dispatcher = request.app.state.service
    settings: Settings = request.app.state.settings()
    form, uploads = await read_multipart(request, EditForm, settings, ("file",))
    file = required(uploads, "file")
    name_params(request, PARAMS)
    edit = Edit(form.mode, form.edit_info, form.text, form.intensity, form.iterations)
    if edit.kind == "paralinguistic":
        require_tag(edit.text or "")
    for param, text in (("text", form.text or ""), ("transcript", form.transcript)):
        check_length(text, settings, param)
    engine = engine_for(service, form.model, form.mode)
    wanted = EditRequest(Recording(str(file.path), form.transcript), edit, form.seed)
    pieces = work_for(request, engine, wanted, form.response_format)
    headers = sound_headers(request, engine, wanted) | ignored(form.unknown())
    return StreamedResponse(pieces, MEDIA_TYPES[form.response_format], headers)


async def tags(request: Request) -> Response:
    """`GET /v1/tags`: every mode, its options, who can do it here, and how to have what nobody can."""
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
    """What nothing here can do."""
    for need in ("speak", "clone", "transcribe", *OPTIONS):
        try:
            service.choice(need)
        except EngineUnavailable:
            yield need
