"""The routes of the page: its files, gradio's scripts, and the daemon's status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from stepaudiod.config import Settings
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.idle import IdleClock
from stepaudiod.web import edits
from stepaudiod.web.page.snapshot import Snapshot, gradio_folder
from stepaudiod.web.page.watching import Feed

HERE = Path(__file__).parent
HTML = "text/html; charset=utf-8"
LANGUAGES = ("en", "zh")
NOTHING_FOREIGN = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob: data:; "
    "connect-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Gradio compiles handlers from text, hence unsafe-eval; nothing is loaded from or sent to another host."""
OWN_MICROPHONE = "microphone=(self), camera=(), geolocation=()"
ASSETS_S = 31_536_000


class Assets(StaticFiles):
    """Files whose names change with their content."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = f"max-age={ASSETS_S}, immutable"
        return response


class Fresh(StaticFiles):
    """The page's own files, which the browser revalidates, since an upgrade may change them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


class Page:
    """The page of one daemon.

    Args:
        settings: returns the current configuration.
        idle: making the page counts as work; viewing it doesn't.
    """

    def __init__(self, settings: Callable[[], Settings], idle: IdleClock) -> None:
        self._settings = settings
        self._snapshot = Snapshot(lambda: settings().cache_path, idle)
        self._feed = Feed()
        self._gradio = gradio_folder()
        self._preloading: asyncio.Task[None] | None = None

    def routes(self) -> list[BaseRoute]:
        """The routes on `http` and `page` sockets."""
        own: list[BaseRoute] = [
            Route("/", self.index, methods=["GET"]),
            _own("/simple", self.simple),
            _own("/page/watch", self._feed.watch),
            Mount("/page", Fresh(directory=HERE / "static")),
        ]
        if self._gradio is None:
            return own
        return [
            _own("/page/state", self.state),
            *own,
            _own("/theme.css", self.colors),
            _own("/favicon.ico", self.icon),
            Mount("/assets", Assets(directory=self._gradio / "assets")),
            Mount("/static", Assets(directory=self._gradio / "static")),
        ]

    async def index(self, request: Request) -> Response:
        """`GET /`: the page, or while it is being made, a page that waits for it."""
        service: Dispatcher = request.app.state.service
        chosen = request.query_params.get("lang")
        if self._gradio is None:
            self._preload(service)
            return await self.simple(request)
        if self._snapshot.is_ready:
            self._preload(service)
            return _html(self._snapshot.read(f"index.{language_of(request)}.html"), chosen)
        # the model is loaded after the page is made: at the same time they would slow each other down
        self._snapshot.prepare(then=lambda: self._preload(service))
        return _html((HERE / "waking.html").read_bytes(), chosen)

    def _preload(self, service: Dispatcher) -> None:
        if self._settings().preload == "page":
            self._preloading = asyncio.create_task(service.preload())

    async def simple(self, request: Request) -> Response:
        """`GET /simple`: text, voice, speed and a button, for installations without gradio."""
        return _html((HERE / "simple.html").read_bytes(), None)

    async def state(self, request: Request) -> Response:
        """`GET /page/state`: whether the page is ready, or why not; how long the browser keeps results.

        `missing` has the unavailable features, and how to install the engines that have them.
        """
        service: Dispatcher = request.app.state.service
        return JSONResponse(
            {
                "ready": self._snapshot.is_ready,
                "problem": self._snapshot.problem,
                "keep_results": self._settings().page.keep_results,
                "missing": {
                    need: {engine.name: engine.install for engine in service.catalog.would(need)}
                    for need in edits.missing(service)
                },
            }
        )

    async def colors(self, request: Request) -> Response:
        """`GET /theme.css`: gradio's colours and measures."""
        path = self._snapshot.folder / "theme.css"
        return FileResponse(path, media_type="text/css", headers={"Cache-Control": "no-cache"})

    async def icon(self, request: Request) -> Response:
        """`GET /favicon.ico`."""
        return FileResponse(HERE / "static" / "icon.svg")


def _own(path: str, endpoint: Callable[..., object]) -> Route:
    """A route for the page's scripts only, which isn't part of the documented API."""
    return Route(path, endpoint, methods=["GET"], include_in_schema=False)


def language_of(request: Request) -> str:
    """The page's language: as selected on the page, or the first supported one of the browser."""
    chosen = request.query_params.get("lang") or request.cookies.get("lang")
    if chosen in LANGUAGES:
        return chosen
    for wanted in request.headers.get("accept-language", "").lower().split(","):
        if (name := wanted.strip()[:2]) in LANGUAGES:
            return name
    return "en"


def _html(body: bytes, chosen: str | None) -> Response:
    headers = {"Content-Security-Policy": NOTHING_FOREIGN, "Cache-Control": "no-cache"}
    headers |= {"Referrer-Policy": "no-referrer", "Vary": "Accept-Language, Cookie"}
    headers |= {"Permissions-Policy": OWN_MICROPHONE}
    response = Response(body, headers=headers, media_type=HTML)
    if chosen in LANGUAGES:
        response.set_cookie("lang", chosen, max_age=ASSETS_S, samesite="lax")
    return response
