"""`/openapi.json`, `/docs` and `/redoc`: the OpenAPI document of this socket, and Swagger UI to read it.

Nothing is imported or built before the first of these requests, so the daemon wakes as fast without them.
"""

from __future__ import annotations

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from stepaudiod.config import Settings
from stepaudiod.web.endpoint import DAEMON, HTML, JSON, Answer, endpoint

HERE = Path(__file__).parent / "swagger"
"""The page's addresses are relative, so that it works below a proxy's path prefix. Its script offers audio
as a download: Swagger UI's player would request the address again, with GET."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Scripts come from this daemon only, and requests go to it only."""
FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
KEEP = {"Cache-Control": "max-age=3600", "X-Content-Type-Options": "nosniff"}


class Document:
    """The document of one application as JSON, built again when the configuration has changed."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._json = b""

    async def json(self, app: Starlette) -> bytes:
        settings: Settings = app.state.settings()
        if self._settings is not settings:
            self._json = await asyncio.to_thread(_build, app, settings)
            self._settings = settings
        return self._json


def _build(app: Starlette, settings: Settings) -> bytes:
    from stepaudiod.web.openapi.document import build

    document = build(app.routes, settings)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


@endpoint("GET /openapi.json", "getDocument", DAEMON, {200: Answer("OpenAPI 3.1.", {JSON: ()})})
async def openapi(request: Request) -> Response:
    """Get this document."""
    document: Document = request.app.state.document
    return Response(await document.json(request.app), media_type=JSON)


SWAGGER = Answer("Swagger UI.", {HTML: ()}, ("Content-Security-Policy",))


@endpoint("GET /docs", "getDocs", DAEMON, {200: SWAGGER})
async def docs(request: Request) -> Response:
    """Read this document in a browser, and try it out."""
    return Response((HERE / "index.html").read_bytes(), headers=HEADERS, media_type=HTML)


async def docs_file(request: Request) -> Response:
    name = request.path_params["name"]
    if name == "start.js":
        return Response((HERE / "start.js").read_bytes(), headers=KEEP, media_type="text/javascript")
    if name not in FILES:
        raise HTTPException(404)
    spec = find_spec("fastapi_swagger")  # finds its folder without importing it
    assert spec is not None
    assert spec.origin is not None
    return FileResponse(Path(spec.origin).parent / "resources" / name, headers=KEEP)


DOCS_FILE = Route("/docs/{name}", docs_file)


@endpoint("GET /redoc", "getRedoc", DAEMON, {308: Answer("It is at /docs.", headers=("Location",))})
async def redoc(request: Request) -> Response:
    """Go to /docs."""
    return RedirectResponse("docs", 308)
