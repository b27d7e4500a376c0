"""The routes of the page: the page itself, gradio's scripts and ours, and the daemon's state."""

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
from stepaudiod.web.endpoint import DAEMON, HTML, Answer, endpoint
from stepaudiod.web.page import LANGUAGES
from stepaudiod.web.page.snapshot import Snapshot, gradio_folder
from stepaudiod.web.page.watching import Feed

HERE = Path(__file__).parent
NOTHING_FOREIGN = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob: data:; "
    "connect-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Gradio compiles handlers from text, hence unsafe-eval. No other host is reached."""
HEADERS = {
    "Content-Security-Policy": NOTHING_FOREIGN,
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Language, Cookie",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}
ASSETS_S = 31_536_000


class Files(StaticFiles):
    cache_control = "no-cache"  # an upgrade may change ours

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = self.cache_control
        return response


class Assets(Files):
    """Files whose names change with their content, so that the browser may keep them."""

    cache_control = f"max-age={ASSETS_S}, immutable"


class Page:
    """The page of one daemon. Rendering it keeps the daemon awake; a visit does not."""

    def __init__(self, settings: Callable[[], Settings], idle: IdleClock) -> None:
        self._settings = settings
        self._snapshot = Snapshot(lambda: settings().cache_path, idle)
        self._feed = Feed()
        self._gradio = gradio_folder()
        self._preloading: asyncio.Task[None] | None = None

    def routes(self) -> list[BaseRoute]:
        """The routes of `http` and `page` sockets."""
        page = Answer("The page.", {HTML: ()}, tuple(name for name in HEADERS if "Policy" in name))
        index = endpoint("GET /", "getPage", DAEMON, {200: page})(self.index)
        own: list[BaseRoute] = [
            index,
            Route("/simple", self.simple),
            Route("/page/watch", self._feed.watch),
            Mount("/page", Files(directory=HERE / "static")),
        ]
        if self._gradio is None:
            return own
        return [
            Route("/page/state", self.state),
            *own,
            Route("/theme.css", self.colors),
            Route("/favicon.ico", self.icon),
            Mount("/assets", Assets(directory=self._gradio / "assets")),
            Mount("/static", Assets(directory=self._gradio / "static")),
        ]

    async def index(self, request: Request) -> Response:
        """Get the web page; while it is being made, one that shows this and is replaced by it."""
        service: Dispatcher = request.app.state.service
        chosen = request.query_params.get("lang")
        if self._gradio is None:
            self._preload(service)
            return await self.simple(request)
        if self._snapshot.is_ready:
            self._preload(service)
            return _html((self._snapshot.folder / f"index.{language_of(request)}.html").read_bytes(), chosen)
        # first the page, then the model: in parallel, both would take longer
        self._snapshot.prepare(then=lambda: self._preload(service))
        return _html((HERE / "waking.html").read_bytes(), chosen)

    def _preload(self, service: Dispatcher) -> None:
        if self._settings().preload == "page":
            self._preloading = asyncio.create_task(service.preload())

    async def simple(self, request: Request) -> Response:
        """`GET /simple`: text, voice, speed and a button, for installations without gradio."""
        return _html((HERE / "simple.html").read_bytes(), None)

    async def state(self, request: Request) -> Response:
        """`GET /page/state`: whether the page is rendered, or why not; how long the browser keeps results.

        `missing` has the work that no installed engine can do, and how to install engines that can: the page
        shows it in its own language.
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
        path = self._snapshot.folder / "theme.css"
        return FileResponse(path, media_type="text/css", headers={"Cache-Control": "no-cache"})

    async def icon(self, request: Request) -> Response:
        return FileResponse(HERE / "static" / "icon.svg")


def language_of(request: Request) -> str:
    """The page's language: the one chosen on it, or the first of the browser's that it has."""
    chosen = request.query_params.get("lang") or request.cookies.get("lang")
    if chosen in LANGUAGES:
        return chosen
    for wanted in request.headers.get("accept-language", "").lower().split(","):
        if (name := wanted.strip()[:2]) in LANGUAGES:
            return name
    return "en"


def _html(body: bytes, chosen: str | None) -> Response:
    response = Response(body, headers=HEADERS, media_type=HTML)
    if chosen in LANGUAGES:
        response.set_cookie("lang", chosen, max_age=ASSETS_S, samesite="lax")
    return response
