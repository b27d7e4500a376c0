"""Which engine a request means: the name in it, or whoever can do what it needs; and what it can follow."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request

from stepaudiod.audio.ai_marking import HEADER, Mark
from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.engines.instructions import Followed, follow
from stepaudiod.engines.local_models import STEP_AUDIO
from stepaudiod.engines.registry import NEEDS, can
from stepaudiod.engines.voice_names import told_language
from stepaudiod.errors import InvalidRequest, Unsupported
from stepaudiod.requests import (
    EditRequest,
    EngineDescription,
    Result,
    SpeechRequest,
    TranscriptionRequest,
    Work,
)
from stepaudiod.tags import warning
from stepaudiod.text.languages import language_code
from stepaudiod.text.scripts import main_language
from stepaudiod.web.model_names import meaning, without_organisation
from stepaudiod.web.schemas import SpeechForm


def find_engine(service: Dispatcher, model: str, need: str = "speak", caller: str = "") -> EngineDescription:
    """The engine of that name, or the one that a customary name stands for here.

    Args:
        service: knows what is installed.
        model: as the client wrote it.
        need: what a name of a model that speaks is to be good for; see `engines.catalog.can`.
        caller: whose voices count, see `caller_of`; "" leaves those that all callers have.

    Raises:
        NotFound: the name means nothing here.
        EngineUnavailable: the engine is not installed, or nothing that is can do the work.
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
    """The name of the API key that a request has shown; "" for none."""
    return str(request.scope["state"]["caller"])


def engine_for(service: Dispatcher, model: str | None, need: str, caller: str = "") -> EngineDescription:
    """The engine that a request's `model` means.

    Args:
        service: knows what is installed.
        model: as the client wrote it; None leaves it to us.
        need: see `engines.catalog.can`.
        caller: whose voices count, see `caller_of`; "" leaves those that all callers have.

    Raises:
        NotFound: there is no such model.
        EngineUnavailable: it isn't installed, or nothing that is can do it.
        Unsupported: the model that was named can't do it; names those that can.
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
    others = [e.name for e in service.catalog.seen_by(caller).installed() if can(e, need)]
    hint = f"These can: {', '.join(others)}." if others else _how(service, need)
    raise Unsupported(f"The model {engine.name} can't {NEEDS.get(need, need)}. {hint}", "model")


def work_for(
    request: Request, engine: EngineDescription, work: Work, format: str | None
) -> AsyncIterator[Result]:
    """Have an engine do a request's work, under the request's id and its caller's name.

    Args:
        request: whose work it is.
        engine: who does it.
        work: what is asked for.
        format: of the audio; None where none comes.
    """
    service: Dispatcher = request.app.state.service
    state = request.scope["state"]
    if not isinstance(work, TranscriptionRequest):
        work = work._replace(is_marked=_is_marked(request))
    return service.run(engine, work, format, state["request_id"], state["caller"], state["share"])


def sound_headers(request: Request, engine: EngineDescription, work: Work) -> dict[str, str]:
    """The headers of a response with sound: the model, the mark (aac and pcm have no other), unknown tags."""
    headers = {"X-StepAudio-Model": engine.name}
    if warned := _warning(engine, work):
        headers["X-StepAudio-Warning"] = warned
    return headers | {HEADER: str(Mark.of(work, engine.name))} if _is_marked(request) else headers


def _warning(engine: EngineDescription, work: Work) -> str | None:
    """What is said of tags in a text that the engine reads but doesn't know."""
    if "paralinguistic" not in engine.capabilities.edits:
        return None
    if isinstance(work, SpeechRequest):
        return warning(work.text)
    return warning(work.edit.text or "") if isinstance(work, EditRequest) else None


def _is_marked(request: Request) -> bool:
    settings: Settings = request.app.state.settings()
    return settings.marking.metadata


def _how(service: Dispatcher, need: str) -> str:
    could = [e.install for e in service.catalog.engines if can(e, need)]
    return f"To have one that can, {'; '.join(could)}." if could else "No engine can."


def follow_instructions(engine: EngineDescription, instructions: str | None) -> tuple[Followed, list[str]]:
    """What of a request's instructions the engine can follow, and `instructions` where it is nothing."""
    if not instructions:
        return Followed(), []
    followed = follow(instructions)
    if followed.said and "style" in engine.capabilities.edits:
        return followed, []
    return Followed(), ["instructions"]


KOKORO_LETTERS = {
    "a": "en", "b": "en", "e": "es", "f": "fr", "h": "hi", "i": "it", "j": "ja", "p": "pt", "z": "zh",
}  # fmt: skip
"""What `lang_code` says in Kokoro's own programs."""


def follow_language(engine: EngineDescription, form: SpeechForm) -> tuple[str | None, list[str]]:
    """What the engine is told of the language, and the field that says it where that isn't followed.

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
        return None, [field]
    is_followed = told is not None or language_code(language) in ("", main_language(form.input))
    return told, [] if is_followed else [field]
