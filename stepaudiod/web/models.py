"""Models, their voices, what is loaded, and unloading. None of these endpoints starts the worker."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepaudiod import __version__
from stepaudiod.counters import OUTCOMES
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.engines.local_models import OLD_VARIANTS, QUANTIZATIONS, STEP_AUDIO
from stepaudiod.engines.registry import PROBE, UNCHANGED, can
from stepaudiod.errors import Busy, EngineUnavailable
from stepaudiod.idle import IdleClock
from stepaudiod.requests import EngineDescription
from stepaudiod.version import COMMIT
from stepaudiod.web.endpoint import MODELS, NAMES_A_MODEL, VOICES, Parameter, endpoint
from stepaudiod.web.model_names import OPENAI_SPEECH, OPENAI_TRANSCRIPTION
from stepaudiod.web.resolve import caller_of, find_engine

CREATED = 1763856000
"""OpenAI's form has a time of creation; ours is that of the project."""
MODEL_ID = Parameter("id", "path", "a model's id", "hibari")


def _describe(engine: EngineDescription, service: Dispatcher, caller: str, name: str = "") -> dict[str, Any]:
    """A model in OpenAI's form, with our fields; `name` is another name for it."""
    more = {}
    if name:
        more["stands_for"] = engine.name
    else:
        with contextlib.suppress(EngineUnavailable):  # the configured engine can't be used; others can
            choice = service.choice(caller=caller)
            if choice.engine is engine:
                more["default"] = choice.reason
    abilities = engine.capabilities
    return {
        "id": name or engine.name,
        "object": "model",
        "created": CREATED,
        "owned_by": "stepaudiod",
        **more,
        "title": engine.title,
        "languages": abilities.languages,
        "capabilities": {
            "speak": can(engine, "speak"),
            "clone": abilities.clone,
            "transcribe": abilities.transcribe,
            "edits": abilities.edits,
        },
    }


@endpoint("GET /v1/models/{id:path}", "getModel", MODELS, "Model", NAMES_A_MODEL, parameters=(MODEL_ID,))
async def get_model(request: Request) -> Response:
    """Get one model.

    `id` may be a variant, or a customary name such as `tts-1-1106` or `openai/whisper-large-v3`.
    """
    service: Dispatcher = request.app.state.service
    if not (id := request.path_params["id"].strip("/")):
        return JSONResponse({"object": "list", "data": _installed(request)})
    caller = caller_of(request)
    engine = find_engine(service, id, caller=caller)
    return JSONResponse(_describe(engine, service, caller, "" if id == engine.name else id))


def _installed(request: Request) -> list[dict[str, Any]]:
    service: Dispatcher = request.app.state.service
    caller = caller_of(request)
    installed = service.catalog.seen_by(caller).installed()
    models = [_describe(engine, service, caller) for engine in installed]
    for need, names in (("speak", OPENAI_SPEECH), ("transcribe", OPENAI_TRANSCRIPTION)):
        with contextlib.suppress(EngineUnavailable):
            engine = service.choice(need, caller).engine
            models += [_describe(engine, service, caller, name) for name in names]
    return models


@endpoint("GET /v1/models", "listModels", MODELS, "ModelList")
async def list_models(request: Request) -> Response:
    """List the installed models, the best first, then OpenAI's names for the default ones."""
    return JSONResponse({"object": "list", "data": _installed(request)})


@endpoint("GET /v1/audio/models", "listSpeechModels", MODELS, "SpeechModelList")
async def list_speakers(request: Request) -> Response:
    """List the models of /v1/models that speak; `models` has their ids, in the form of Kokoro-FastAPI."""
    data = [each for each in _installed(request) if each["capabilities"]["speak"]]
    return JSONResponse({"object": "list", "data": data, "models": [{"id": each["id"]} for each in data]})


MODEL = Parameter("model", "query", "the model; by default the one that serves", "hibari")


@endpoint("GET /v1/voices", "listSpeakers", VOICES, "Speakers", NAMES_A_MODEL, parameters=(MODEL,))
async def list_voices(request: Request) -> Response:
    """List the voices of one model, in the old containers' form."""
    service: Dispatcher = request.app.state.service
    model = request.query_params.get("model")
    caller = caller_of(request)
    engine = find_engine(service, model, caller=caller) if model else service.choice(caller=caller).engine
    return JSONResponse(
        [
            {
                "id": voice.id,
                "description": voice.description,
                "locale": voice.language,
                "gender": voice.gender,
                "languages": voice.languages,
                "model": engine.name,
                "name": voice.name or voice.id,
                "prompt_text": voice.transcript,
                "prompt_audio": f"/v1/audio/voices/{quote(voice.id)}/recording" if voice.transcript else "",
                "openai_names": sorted(
                    n for n, ids in engine.openai_voices.items() if voice.id in ids.values()
                ),
            }
            for voice in engine.voices
        ]
    )


@endpoint("GET /api/v1/models/status", "getStatus", MODELS, "Status")
async def status(request: Request) -> Response:
    """Get what is loaded, what is being done, and when the daemon sleeps."""
    return JSONResponse(describe_status(request.app.state.service, request.app.state.idle))


def describe_status(service: Dispatcher, idle: IdleClock) -> dict[str, Any]:
    """An entry for each installed model, loaded variant and old name of a variant, and `daemon`."""
    worker = service.worker
    loading = None if worker is None else worker.loading
    names = dict.fromkeys([*(engine.name for engine in service.catalog.installed()), *_loaded(service)])
    old_names = {old: _variants(old, service.catalog.engines) for old in OLD_VARIANTS}
    try:
        choice = service.choice()
        engine, reason = choice.engine.name, choice.reason
    except EngineUnavailable as error:
        engine, reason = None, error.message
    return {
        **{name: _model_status([name], service, idle) for name in names},
        **{
            old: _model_status(named, service, idle) | {"model": named[0]} for old, named in old_names.items()
        },
        "daemon": {
            "version": __version__,
            "commit": COMMIT or None,
            "status": service.status(),
            "engine": engine,
            "reason": reason,
            "active": service.active,
            "queued": service.queued,
            "worker_pid": None if worker is None or worker.is_lost else worker.pid,
            "worker_state": service.worker_state,
            "loading": None if loading is None else str(loading),
            "load": None if loading is None else asdict(loading),
            "requests": {outcome: service.counters.ended(outcome) for outcome in OUTCOMES},
        },
    }


def _loaded(service: Dispatcher) -> dict[str, dict[str, Any]]:
    """The loaded models, and what each reports about itself."""
    loaded = {} if service.worker is None else service.worker.loaded
    return {name: about for name, about in loaded.items() if name not in (PROBE.name, UNCHANGED.name)}


def _variants(old: str, engines: tuple[EngineDescription, ...]) -> list[str]:
    """The models that an old name stands for: the variant, and the plain model if configured like it."""
    ending = OLD_VARIANTS[old]
    plain = next((e for e in engines if e.name == STEP_AUDIO), None)
    is_plain = plain is not None and plain.options["quantization"] == QUANTIZATIONS[ending]
    return [f"{STEP_AUDIO}-{ending}", *([STEP_AUDIO] if is_plain else [])]


def _model_status(names: list[str], service: Dispatcher, idle: IdleClock) -> dict[str, Any]:
    """One model in the old containers' form, with what it reports about itself while it is loaded."""
    worker, loaded = service.worker, _loaded(service)
    about = next((loaded[each] for each in names if each in loaded), None)
    memory = worker.gpu_memory if worker is not None and about is not None else {}
    return {
        "loaded": about is not None,
        "auto_unload": idle.timeout_s is not None,
        "idle_timeout": idle.timeout_s,
        "idle_time": round(idle.idle_s, 3),
        "time_until_unload": idle.remaining_s if idle.remaining_s is None else round(idle.remaining_s, 3),
        "gpu_memory_allocated_gb": round(memory.get("allocated_bytes", 0) / 1e9, 3),
        "gpu_memory_reserved_gb": round(memory.get("reserved_bytes", 0) / 1e9, 3),
        **(about or {}),
    }


@endpoint(
    "POST /api/v1/models/{name}/unload",
    "unloadModel",
    MODELS,
    "Unloaded",
    errors=(*NAMES_A_MODEL, Busy),
    parameters=(MODEL_ID._replace(name="name"),),
)
async def unload(request: Request) -> Response:
    """End the worker, so that nothing of the model stays in memory."""
    service: Dispatcher = request.app.state.service
    name = request.path_params["name"]
    if name in OLD_VARIANTS:
        names = _variants(name, service.catalog.engines)
    else:
        names = [
            name if name in _loaded(service) else find_engine(service, name, caller=caller_of(request)).name
        ]
    unloaded = any([await service.unload(each) for each in names])
    return JSONResponse({"model": names[0], "unloaded": unloaded})
