"""The application of each kind of socket: its routes and middleware."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from stepaudiod.api_keys import ApiKeys
from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.idle import IdleClock
from stepaudiod.systemd import Role
from stepaudiod.web import (
    docs,
    edits,
    health,
    legacy,
    legacy_short,
    metrics,
    models,
    speech,
    transcriptions,
    voices,
)
from stepaudiod.web.access import Access
from stepaudiod.web.body import SpoolUploads
from stepaudiod.web.docs import Document
from stepaudiod.web.errors import HANDLERS
from stepaudiod.web.metrics import CountAnswers
from stepaudiod.web.page.routes import Page
from stepaudiod.web.request_id import RequestId


def _routes_of(*modules: ModuleType) -> list[Route]:
    return [value for module in modules for value in vars(module).values() if isinstance(value, Route)]


USED_BY_THE_PAGE = _routes_of(health, speech, legacy, legacy_short, edits, transcriptions, voices, models)
API = [*USED_BY_THE_PAGE, *_routes_of(docs, metrics)]


def routes(role: Role, page: Page) -> list[BaseRoute]:
    if role == "api":
        return [*API]
    return [*page.routes(), *(API if role == "http" else USED_BY_THE_PAGE)]


def build_app(
    role: Role,
    settings: Callable[[], Settings],
    service: Dispatcher,
    idle: IdleClock,
    keys: Callable[[], ApiKeys],
    page: Page,
) -> Starlette:
    """The application that a socket serves; a reload changes the settings and keys."""
    middleware = [
        Middleware(RequestId),
        Middleware(CountAnswers, service.counters),
        Middleware(Access, settings, keys),
        Middleware(SpoolUploads, settings),
    ]
    app = Starlette(routes=routes(role, page), middleware=middleware, exception_handlers=dict(HANDLERS))
    app.router.redirect_slashes = False  # Starlette's redirects lose a proxy's path prefix; see errors.py
    app.state.settings = settings
    app.state.service = service
    app.state.idle = idle
    app.state.document = Document()
    return app
