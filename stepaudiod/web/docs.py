"""`/openapi.json`, `/docs` and `/redoc`: what this socket serves, field by field.

Nothing is imported or built before the first of these requests, so that waking costs nothing more.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from stepaudiod.config import Settings


class Rendered(NamedTuple):
    """The document under one configuration."""

    settings: Settings
    json: bytes
    page: bytes
    style_hash: str


class Documents:
    """The document of one application, built anew when the configuration has changed."""

    def __init__(self) -> None:
        self._rendered: Rendered | None = None

    async def of(self, app: Starlette, settings: Settings) -> Rendered:
        """The document as it is now."""
        if self._rendered is None or self._rendered.settings is not settings:
            self._rendered = await asyncio.to_thread(_render, app, settings)
        return self._rendered


def _render(app: Starlette, settings: Settings) -> Rendered:
    from stepaudiod.web.openapi.openapi import build, dump
    from stepaudiod.web.openapi.page import STYLE, render

    document = build(app.routes, settings)
    style_hash = hashlib.sha256(STYLE.encode())
    return Rendered(settings, dump(document), render(document), _base64(style_hash.digest()))


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


async def openapi(request: Request) -> Response:
    """`GET /openapi.json`: the document, OpenAPI 3.1."""
    return Response((await _document(request)).json, media_type="application/json")


async def docs(request: Request) -> Response:
    """`GET /docs`: the same for people. It has no script, and may load nothing from anywhere."""
    rendered = await _document(request)
    policy = (
        f"default-src 'none'; style-src 'sha256-{rendered.style_hash}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    return Response(rendered.page, headers=headers, media_type="text/html; charset=utf-8")


async def redoc(request: Request) -> Response:
    """`GET /redoc`: where the old containers had it."""
    return RedirectResponse("docs", 308)


async def _document(request: Request) -> Rendered:
    documents: Documents = request.app.state.documents
    return await documents.of(request.app, request.app.state.settings())
