"""`/healthz` and `/readyz`: is it alive, could it work. Neither wakes anything."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepaudiod.dispatcher import Dispatcher
from stepaudiod.errors import EngineUnavailable
from stepaudiod.web.errors import error_body

NOT_READY = "not_ready"


async def healthz(request: Request) -> Response:
    """`GET /healthz`: the daemon is alive; it says nothing of the engine."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: whether a request could be served, and everything that stands in its way.

    A broken configuration never comes as far as here: it answers every request with 503 and its reason.
    """
    service: Dispatcher = request.app.state.service
    reasons: list[str] = []
    engine = None
    if service.is_stopping:
        reasons.append("The daemon is stopping.")
    try:
        engine = service.choice()
    except EngineUnavailable as error:
        reasons.append(error.message)
    if engine is None or reasons:
        error_table = json.loads(error_body(" ".join(reasons), 503, NOT_READY))
        return JSONResponse({"status": "not ready", "reasons": reasons, **error_table}, 503)
    return JSONResponse(
        {"status": "ready", "reasons": [], "engine": engine.engine.name, "why": engine.reason}
    )
