"""Two short requests of the old containers' documents, each with the fields of one task.

    POST /api/clone   audio=@reference.wav  text="Hello, this is a cloned voice!"
    POST /api/edit    audio=@input.wav      mode=emotion  emotion=happy  intensity=1.5

They are the long form, see `legacy.py`, under other names. JSON has the recording in base64.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from stepaudiod.errors import InvalidRequest
from stepaudiod.web.body import check, read_multipart
from stepaudiod.web.endpoint import EDITS, SPEECH, WORKS, endpoint
from stepaudiod.web.inline import ABOVE, read_json
from stepaudiod.web.legacy import Naming, serve
from stepaudiod.web.legacy_schemas import (
    CloneForm,
    CloneJson,
    OldEditForm,
    OldEditJson,
    OldSpeechForm,
    ShortForm,
)
from stepaudiod.web.stream import SPEECH_ANSWER

INFO = ("edit_info", "emotion", "style", "speed")
"""Fields that may say which emotion, style or speed."""
HOW = "as the file audio, in base64 as audio, or behind audio_url"

F = TypeVar("F", bound=ShortForm)


@endpoint("POST /api/clone", "cloneVoice", SPEECH, {200: SPEECH_ANSWER}, WORKS, (CloneForm, CloneJson))
async def clone(request: Request) -> Response:
    """Speak in the voice of a recording, in a short form of the old containers.

    Without a recording, a voice speaks. `emotion` or `style` is that of the speech.
    """
    form = await _read(request, CloneForm, CloneJson, "prompt")
    info = _info(form, "edit_info")
    fields = form.model_dump(include={"prompt_text"}) | {"prompt_audio_url": form.audio_url}
    whole = {"input": form.text, "voice": form.voice, "speed": form.speed, "language": form.language}
    return await _serve(request, form, "prompt", info, whole, fields | {"mode": "clone"})


@endpoint("POST /api/edit", "editRecording", EDITS, {200: SPEECH_ANSWER}, WORKS, (OldEditForm, OldEditJson))
async def edit(request: Request) -> Response:
    """Change a recording, in a short form of the old containers."""
    form = await _read(request, OldEditForm, OldEditJson, "input")
    mode: str | None = form.mode or next((name for name in INFO[1:] if getattr(form, name)), None)
    if mode is None or mode == "clone":
        raise InvalidRequest("'mode' must be one that GET /v1/tags lists. POST /api/clone clones.", "mode")
    fields = form.model_dump(include={"audio_text"}) | {"input_audio_url": form.audio_url}
    info = _info(form, mode)
    return await _serve(request, form, "input", info, {"input": form.text}, fields | {"mode": mode})


async def _read(request: Request, with_file: type[F], as_json: type[F], purpose: str) -> F:
    """The body in any of its three types. Its recording is in the spool under a name of the long form.

    Raises:
        InvalidRequest: a field is missing or wrong.
    """
    content_type = request.headers.get("content-type", "").lower()
    if content_type.startswith("multipart/"):
        form, uploads = await read_multipart(request, with_file)
        if "audio" in uploads:
            uploads[f"{purpose}_audio_file"] = uploads.pop("audio")
        return form
    aliases = as_json.aliases
    names = ["audio", *(alias for alias, name in aliases.items() if name == "audio")]
    recordings = dict.fromkeys(names, ABOVE + f"{purpose}_audio_base64")
    body = await read_json(request, request.app.state.settings(), recordings)
    if content_type.startswith("application/x-www-form-urlencoded") and not body.lstrip().startswith(b"{"):
        return check(as_json, {**dict(parse_qsl(body.decode(errors="replace")))})
    return check(as_json, body)  # JSON from `curl -d` has that type too


class Info(NamedTuple):
    """Which emotion, style or speed a request names, and in which field."""

    value: str | None
    field: str
    unused: tuple[str, ...]
    """Other fields of that kind that are given."""


def _info(form: ShortForm, mode: str) -> Info:
    """The field of the mode's name is the first choice."""
    given = [name for name in (mode, *INFO) if name in INFO and isinstance(getattr(form, name, None), str)]
    given = [name for name in dict.fromkeys(given) if getattr(form, name)]
    if not given:
        return Info(None, "edit_info", ())
    return Info(getattr(form, given[0]), given[0], tuple(given[1:]))


async def _serve(
    request: Request,
    form: ShortForm,
    purpose: str,
    info: Info,
    whole: dict[str, Any],
    options: dict[str, Any],
) -> Response:
    """Serve the long form with these fields, those of `step_audio`, and those of both short forms."""
    audio = f"{purpose}_audio"
    options |= form.model_dump(include={"model_variant", "intensity", "n_edit_iter"})
    options |= {"edit_info": info.value, f"{audio}_base64": getattr(form, "audio", None)}
    whole |= form.model_dump(include={"model", "response_format", "seed"}) | {"step_audio": options}
    names = {ABOVE + name: name for name in options} | {f"{audio}_file": "audio", "input": "text"}
    names |= {ABOVE + f"{audio}_base64": "audio", ABOVE + f"{audio}_url": "audio_url"}
    names[ABOVE + "edit_info"] = info.field
    naming = Naming(names, "audio", HOW)
    return await serve(request, OldSpeechForm.model_validate(whole), [*info.unused, *form.unknown()], naming)
