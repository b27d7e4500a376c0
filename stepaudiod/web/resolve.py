"""What a request means here: the engine, the voice, the language and what of the instructions is followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request

from stepaudiod.audio.ai_marking import HEADER, Mark
from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.edits import Edit
from stepaudiod.engines.instructions import Followed, follow
from stepaudiod.engines.local_models import STEP_AUDIO
from stepaudiod.engines.registry import NEEDS, can
from stepaudiod.engines.voice_names import require_speakable, resolve_voice, told_language
from stepaudiod.errors import InvalidRequest, Unsupported
from stepaudiod.requests import EditRequest, EngineDescription, SpeechRequest, TranscriptionRequest, Work
from stepaudiod.tags import warning
from stepaudiod.text.languages import language_code
from stepaudiod.text.scripts import main_language
from stepaudiod.web.model_names import meaning, without_organisation
from stepaudiod.web.schemas import SpeechForm

MODEL, WARNING = "X-StepAudio-Model", "X-StepAudio-Warning"
SOUND_HEADERS = (
    *(MODEL, HEADER, "X-StepAudio-Seed", "X-StepAudio-Pieces", WARNING),
    *("X-StepAudio-Transcript", "X-StepAudio-Reference-Stretch"),
    *("X-StepAudio-Noise-Reduction", "X-StepAudio-Tempo"),
)
"""Headers that a response with audio may have; most are facts that the engine reports."""

KOKORO_LETTERS = {
    "a": "en", "b": "en", "e": "es", "f": "fr", "h": "hi", "i": "it", "j": "ja", "p": "pt", "z": "zh",
}  # fmt: skip
"""The languages of `lang_code` in Kokoro's own programs."""


def find_engine(service: Dispatcher, model: str, need: str = "speak", caller: str = "") -> EngineDescription:
    """The engine of that name, or the one that a customary name stands for here.

    The engine of a customary speech model must be able to do what `need` names, see `engines.registry.can`.
    Of private voices only those of `caller` count, see `caller_of`.

    Raises:
        NotFound: the name means nothing here.
        EngineUnavailable: the engine is not installed, or no installed engine can do the work.
    """
    catalog = service.catalog.seen_by(caller)
    plain = without_organisation(model)
    for engine in catalog.engines:
        if plain == engine.name.lower():
            return catalog.get(engine.name)
    meant = meaning(model)
    if meant is None:
        return catalog.get(plain if plain.startswith(STEP_AUDIO) else model)
    for engine in catalog.installed():
        if engine.name.lower() == meant.engine:
            return engine
    return service.choice(meant.need if "transcribe" in (meant.need, need) else need, caller).engine


def caller_of(request: Request) -> str:
    """The name of the API key of a request; "" without one."""
    return str(request.scope["state"]["caller"])


def engine_for(service: Dispatcher, model: str | None, need: str, caller: str = "") -> EngineDescription:
    """The engine for a request, see `find_engine`; without `model` the best one.

    Raises:
        NotFound: there is no such model.
        EngineUnavailable: it is not installed, or no installed engine can do the work.
        Unsupported: the named model can't do the work; the message names those that can.
    """
    if model is None:
        return service.choice(need, caller).engine
    engine = find_engine(service, model, need, caller)
    if can(engine, need):
        return engine
    if need == "speak" and engine.capabilities.speak:
        raise Unsupported(
            f"The model {engine.name} has no voice yet. Make one from a recording: POST /v1/audio/voices.",
            "voice",
        )
    able = [e.name for e in service.catalog.seen_by(caller).installed() if can(e, need)]
    could = [e.install for e in service.catalog.engines if can(e, need)]
    if able:
        hint = f"These can: {', '.join(able)}."
    else:
        hint = f"To have one that can, {'; '.join(could)}." if could else "No engine can."
    raise Unsupported(f"The model {engine.name} can't {NEEDS.get(need, need)}. {hint}", "model")


class ResolvedSpeech(NamedTuple):
    """A speech request as the engine takes it."""

    engine: EngineDescription
    work: SpeechRequest
    headers: dict[str, str]
    """The voice, and what of the instructions is followed."""
    ignored: tuple[str, ...]
    """Fields whose value can't be followed."""


def resolve_speech(
    request: Request,
    form: SpeechForm,
    engine: EngineDescription | None = None,
    edit: Edit | None = None,
    has_reference: bool = False,
) -> ResolvedSpeech:
    """Find the engine, voice and language of a speech request, and what of its instructions can be followed.

    The form's `model` decides the engine, unless it is given. With an `edit`, the instructions are not read;
    with a reference, a recording of the request takes the place of the voice.

    Raises:
        StepaudiodError: no engine here can do it, or a field has a wrong value.
    """
    engine = engine or engine_for(request.app.state.service, form.model, "speak", caller_of(request))
    require_speakable(engine, form.input)
    voice, headers = "", {}
    if not has_reference:
        wanted = form.voice if isinstance(form.voice, str) else form.voice.id
        voice = headers["X-StepAudio-Voice"] = resolve_voice(engine, wanted, form.input)
    followed, ignored = Followed(), []
    if form.instructions and edit is None:
        followed = _follow(engine, form.instructions)
        if followed.said:
            headers["X-StepAudio-Instructions"] = followed.said
        else:
            ignored.append("instructions")
    language, field = _language(engine, form)
    if field:
        ignored.append(field)
    if field != "lang_code" and form.lang_code and language_code(form.language):
        ignored.append("lang_code")
    work = SpeechRequest(
        form.input,
        voice,
        form.speed,
        form.seed,
        language=language or followed.language,
        edit=edit or followed.edit,
        is_marked=is_marked(request),
    )
    return ResolvedSpeech(engine, work, headers, tuple(ignored))


def _follow(engine: EngineDescription, instructions: str) -> Followed:
    """What of the instructions this engine can follow."""
    return follow(instructions) if "style" in engine.capabilities.edits else Followed()


def _language(engine: EngineDescription, form: SpeechForm) -> tuple[str | None, str]:
    """The language that the engine gets, and the form's field for it where that can't be followed.

    Raises:
        InvalidRequest: the engine does not speak the language that `language` names.
    """
    field, language = "language", form.language
    if not language_code(language):
        field, language = "lang_code", KOKORO_LETTERS.get(form.lang_code.strip().lower(), form.lang_code)
    try:
        told = told_language(engine, language)
    except InvalidRequest:
        if field == "language":
            raise
        return None, field
    is_followed = told is not None or language_code(language) in ("", main_language(form.input))
    return told, "" if is_followed else field


def work_headers(
    request: Request, engine: EngineDescription, work: Work, warnings: Sequence[str] = ()
) -> dict[str, str]:
    """The model; for audio also the AI mark, which aac and pcm have nowhere else, and warnings.

    Unknown tags are added to the warnings.
    """
    headers, told = {MODEL: engine.name}, [*warnings]
    if not isinstance(work, TranscriptionRequest):
        if is_marked(request):
            headers[HEADER] = str(Mark.of(work, engine.name))
        if unknown := _unknown_tags(engine, work):
            told.append(unknown)
    return headers | ({WARNING: "; ".join(told)} if told else {})


def is_marked(request: Request) -> bool:
    """Whether audio says in its metadata that it is synthetic."""
    settings: Settings = request.app.state.settings()
    return settings.marking.metadata


def _unknown_tags(engine: EngineDescription, work: SpeechRequest | EditRequest) -> str | None:
    if "paralinguistic" not in engine.capabilities.edits:
        return None
    text = work.text if isinstance(work, SpeechRequest) else work.edit.text if work.edit else None
    return warning(text or "")
