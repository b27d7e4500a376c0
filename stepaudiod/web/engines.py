"""Which engine a request means: the name in it, or whoever can do what it needs; and what it can follow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from starlette.requests import Request

from stepaudiod.audio.marking import HEADER, Mark
from stepaudiod.config import Settings
from stepaudiod.engines.catalog import NEEDS, can
from stepaudiod.engines.instructions import Followed, follow
from stepaudiod.errors import Unsupported
from stepaudiod.service import Service
from stepaudiod.speech import EngineDescription, TranscriptionRequest, Work
from stepaudiod.worker.process import Result

OPENAI_SPEECH = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
OPENAI_TRANSCRIPTION = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-transcribe")
"""OpenAI's own model names: they mean whichever engine here does the work."""


def engine_for(service: Service, model: str | None, need: str) -> EngineDescription:
    """The engine that a request's `model` means.

    Args:
        service: knows what is installed.
        model: as the client wrote it; None leaves it to us.
        need: see `engines.catalog.can`.

    Raises:
        NotFound: there is no such model.
        EngineUnavailable: it isn't installed, or nothing that is can do it.
        Unsupported: the model that was named can't do it; names those that can.
    """
    if model is None or model in (OPENAI_TRANSCRIPTION if need == "transcribe" else OPENAI_SPEECH):
        return service.choice(need).engine
    engine = service.catalog.get(model)
    if can(engine, need):
        return engine
    if need == "speak" and engine.capabilities.speak:
        raise Unsupported(
            f"The model {engine.name} has no voice yet. Make one from a recording: POST /v1/audio/voices.",
            "voice",
        )
    others = [e.name for e in service.catalog.installed() if can(e, need)]
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
    service: Service = request.app.state.service
    state = request.scope["state"]
    if not isinstance(work, TranscriptionRequest):
        work = replace(work, is_marked=_is_marked(request))
    return service.run(engine, work, format, state["request_id"], state["caller"], state["share"])


def sound_headers(request: Request, engine: EngineDescription, work: Work) -> dict[str, str]:
    """The headers of a response with sound: by which model, and the mark, the only one of aac and pcm."""
    headers = {"X-StepAudio-Model": engine.name}
    return headers | {HEADER: str(Mark.of(work, engine.name))} if _is_marked(request) else headers


def _is_marked(request: Request) -> bool:
    settings: Settings = request.app.state.settings()
    return settings.marking.metadata


def _how(service: Service, need: str) -> str:
    could = [e.install for e in service.catalog.engines if can(e, need)]
    return f"To have one that can, {'; '.join(could)}." if could else "No engine can."


def follow_instructions(
    engine: EngineDescription, instructions: str | None
) -> tuple[Followed, dict[str, str]]:
    """What of a request's instructions the engine can follow, and the headers that say so."""
    if not instructions:
        return Followed(), {}
    followed = follow(instructions)
    if followed.said and "style" in engine.capabilities.edits:
        return followed, {"X-StepAudio-Instructions": followed.said}
    return Followed(), {"X-StepAudio-Ignored": "instructions"}
