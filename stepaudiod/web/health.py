"""`/healthz` and `/readyz`: is the daemon alive, and could it serve a request. Neither starts the worker."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepaudiod import __version__
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.errors import EngineUnavailable
from stepaudiod.obstacles import obstacles
from stepaudiod.version import COMMIT
from stepaudiod.web.endpoint import DAEMON, JSON, Answer, endpoint
from stepaudiod.web.errors import error_body

NOT_READY = "not_ready"


HEALTH = {
    200: Answer(
        contents={JSON: ("Health",)},
        headers=("X-StepAudio-Version", "X-StepAudio-Commit", "X-StepAudio-Worker"),
    )
}
VERSION_HEADERS = {"X-StepAudio-Version": __version__} | ({"X-StepAudio-Commit": COMMIT} if COMMIT else {})


@endpoint("GET /healthz", "getHealth", DAEMON, HEALTH)
async def healthz(request: Request) -> Response:
    """Check that the daemon is alive.

    The body says nothing about the engine; a header has the worker's state. Starts no worker.
    """
    service: Dispatcher = request.app.state.service
    headers = VERSION_HEADERS | {"X-StepAudio-Worker": service.worker_state}
    return JSONResponse({"status": "ok"}, headers=headers)


READINESS = {
    200: Answer(contents={JSON: ("Ready",)}),
    503: Answer("It couldn't.", {JSON: ("NotReady", "Error")}, ("Retry-After",)),
}


@endpoint("GET /readyz", "getReadiness", DAEMON, READINESS)
async def readyz(request: Request) -> Response:
    """Check whether a request could be served, and why not.

    Starts no worker. With a broken configuration it answers as every endpoint does: 503 and an `Error`.
    """
    service: Dispatcher = request.app.state.service
    reasons = ["The daemon is stopping."] if service.is_stopping else []
    problems = [str(each) for each in obstacles(request.app.state.settings().folders)]
    engine = None
    try:
        engine = service.choice()
    except EngineUnavailable as error:
        reasons.append(error.message)
    if engine is None or reasons:
        reasons += [each for each in problems if not any(each in reason for reason in reasons)]
        error_table = json.loads(error_body(" ".join(reasons), 503, NOT_READY))
        return JSONResponse({"status": "not ready", "reasons": reasons, **error_table}, 503)
    return JSONResponse(
        {
            "status": "ready",
            "reasons": [],
            "engine": engine.engine.name,
            "why": engine.reason,
            "problems": problems,
            "worker": service.worker_state,
        }
    )
