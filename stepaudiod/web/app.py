"""The application of each kind of socket: routes and middleware."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, compile_path

from stepaudiod.api_keys import ApiKeys
from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.idle import IdleClock
from stepaudiod.systemd import Role
from stepaudiod.web import docs, edits, legacy, models, transcriptions, voices
from stepaudiod.web.access import Access
from stepaudiod.web.body import SpoolUploads
from stepaudiod.web.docs import Documents
from stepaudiod.web.errors import HANDLERS
from stepaudiod.web.health import healthz, readyz
from stepaudiod.web.metrics import CountAnswers, metrics
from stepaudiod.web.page.routes import Page
from stepaudiod.web.request_id import RequestId
from stepaudiod.web.speech import speech


class NameRoute(Route):
    """A route whose last parameter may have slashes in it, as `organisation/model` has."""

    def __init__(self, path: str, endpoint: Callable[..., object], methods: list[str]) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.path_regex, _, self.param_convertors = compile_path(f"{path.removesuffix('}')}:path}}")


WHAT_THE_PAGE_NEEDS = [
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
    Route("/v1/audio/speech", speech, methods=["POST"]),
    Route("/v1/audio/speech/upload", legacy.upload, methods=["POST"]),
    Route("/v1/audio/edits", edits.edits, methods=["POST"]),
    Route("/v1/audio/transcriptions", transcriptions.transcriptions, methods=["POST"]),
    Route("/v1/audio/voices", voices.create, methods=["POST"]),
    Route("/v1/audio/voices", voices.list_voices, methods=["GET"]),
    Route("/v1/audio/voices/{id}", voices.get, methods=["GET"]),
    Route("/v1/audio/voices/{id}", voices.delete, methods=["DELETE"]),
    Route("/v1/audio/voices/{id}/recording", voices.recording, methods=["GET"]),
    Route("/v1/audio/models", models.list_speakers, methods=["GET"]),
    Route("/v1/tags", edits.tags, methods=["GET"]),
    Route("/v1/models", models.list_models, methods=["GET"]),
    NameRoute("/v1/models/{id}", models.get_model, methods=["GET"]),
    Route("/v1/voices", models.list_voices, methods=["GET"]),
    Route("/api/v1/models/status", models.status, methods=["GET"]),
    Route("/api/v1/models/{name}/unload", models.unload, methods=["POST"]),
]
DOCUMENT = [
    Route("/openapi.json", docs.openapi, methods=["GET"]),
    Route("/docs", docs.docs, methods=["GET"]),
    Route("/redoc", docs.redoc, methods=["GET"]),
]
API = [
    *WHAT_THE_PAGE_NEEDS,
    *DOCUMENT,
    Route("/metrics", metrics, methods=["GET"]),
]


def routes(role: Role, page: Page) -> list[BaseRoute]:
    """What a socket of this role serves."""
    if role == "api":
        return [*API]
    return [*page.routes(), *(API if role == "http" else WHAT_THE_PAGE_NEEDS)]


def build_app(
    role: Role,
    settings: Callable[[], Settings],
    service: Dispatcher,
    idle: IdleClock,
    keys: Callable[[], ApiKeys],
    page: Page,
) -> Starlette:
    """The application that a socket of this role serves.

    Args:
        role: what the socket is for.
        settings: the configuration as it is now; a reload changes it.
        service: the queue and the worker.
        idle: for what the status says of sleep.
        keys: the API keys as they are now.
        page: what people see.
    """
    middleware = [
        Middleware(RequestId),
        Middleware(CountAnswers, service.counters),
        Middleware(Access, settings, keys),
        Middleware(SpoolUploads, settings),
    ]
    app = Starlette(routes=routes(role, page), middleware=middleware, exception_handlers=dict(HANDLERS))
    app.router.redirect_slashes = False  # Starlette's lose the path of a proxy; errors.py has ours
    app.state.settings = settings
    app.state.service = service
    app.state.idle = idle
    app.state.documents = Documents()
    return app
