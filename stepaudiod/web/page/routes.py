"""What the page's sockets serve beside the API: the page, gradio's scripts and ours, how the daemon is."""

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
from stepaudiod.web.page.snapshot import Snapshot, gradio_folder
from stepaudiod.web.page.watching import Feed

HERE = Path(__file__).parent
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
        """Let the browser keep them."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = f"max-age={ASSETS_S}, immutable"
        return response


class Fresh(StaticFiles):
    """Our own files: the browser asks each time whether they changed."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """They may have, with an upgrade."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


class Page:
    """The page of one daemon, for all its sockets.

    Args:
        settings: the configuration as it is now.
        idle: making the page is work; looking at it isn't.
    """

    def __init__(self, settings: Callable[[], Settings], idle: IdleClock) -> None:
        self._settings = settings
        self._snapshot = Snapshot(lambda: settings().cache_path, idle)
        self._feed = Feed()
        self._gradio = gradio_folder()
        self._preloading: asyncio.Task[None] | None = None

    def routes(self) -> list[BaseRoute]:
        """What `http` and `page` sockets serve."""
        index = endpoint("GET /", "getPage", DAEMON, {200: Answer("The page.", {HTML: ()})})(self.index)
        own: list[BaseRoute] = [
            index,
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
        """Get the web page; while it is being made, one that shows this and is replaced by it."""
        service: Dispatcher = request.app.state.service
        chosen = request.query_params.get("lang")
        if self._gradio is None:
            self._preload(service)
            return await self.simple(request)
        if self._snapshot.is_ready:
            self._preload(service)
            return _html(self._snapshot.read(f"index.{language_of(request)}.html"), chosen)
        # the page first, the model after it: together they would keep somebody waiting for both
        self._snapshot.prepare(then=lambda: self._preload(service))
        return _html((HERE / "waking.html").read_bytes(), chosen)

    def _preload(self, service: Dispatcher) -> None:
        """Have the model loaded while somebody reads the page."""
        if self._settings().preload == "page":
            self._preloading = asyncio.create_task(service.preload())

    async def simple(self, request: Request) -> Response:
        """`GET /simple`: text, voice, speed and a button, for installations without gradio."""
        return _html((HERE / "simple.html").read_bytes(), None)

    async def state(self, request: Request) -> Response:
        """`GET /page/state`: whether the page is there, or why not; how long the browser keeps sounds.

        `missing` has what nothing here can do, and the engines that could, each with how to have it: the page
        says it in its own language.
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
    """What only the page's scripts ask for: no part of the API that is documented."""
    return Route(path, endpoint, methods=["GET"], include_in_schema=False)


def language_of(request: Request) -> str:
    """The page's language: as chosen on it, or the first of the browser's that we have."""
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
