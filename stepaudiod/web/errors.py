"""The only map from errors to statuses, and the form of every error: OpenAI's, with all four fields.

{"error": {"message": "...", "type": "invalid_request_error", "param": "voice", "code": "invalid_value"}}
"""

from __future__ import annotations

import errno
import json
import logging
from http import HTTPStatus
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stepaudiod import errors
from stepaudiod.errors import Busy, DiskFull, EngineUnavailable, InvalidRequest, StepaudiodError
from stepaudiod.obstacles import obstacles

log = logging.getLogger(__name__)

STATUSES: dict[type[StepaudiodError], int] = {
    errors.ConfigError: 503,
    errors.InvalidRequest: 400,
    errors.NotFound: 404,
    errors.HostRefused: 421,
    errors.OriginRefused: 403,
    errors.KeyRefused: 401,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.Unsupported: 422,
    errors.Busy: 429,
    errors.Stopping: 503,
    errors.TookTooLong: 504,
    errors.DiskFull: 507,
    errors.EngineError: 500,
    errors.EngineUnavailable: 503,
    errors.GpuFull: 503,
    errors.ModelFileError: 503,
    errors.SynthesisFailed: 500,
    errors.WorkerLost: 503,
}

RETRY_AFTER_S = {errors.Stopping: 1, errors.WorkerLost: 1, errors.GpuFull: 60}
"""Errors after which the same request may succeed: whole seconds after which to send it again."""

IN_THE_JOURNAL = "Its journal says why: journalctl -u stepaudiod"

UNFINISHED = (408, 413, 507)
"""Statuses of requests that were not read to their end, after which the connection is closed."""

UNUSABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # no permission
    *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP),  # the wrong kind of file
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN),  # a failed disk or mount
)
"""Errors of the configured directories rather than of the daemon's code."""


def error_body(message: str, status: int, code: str | None = None, param: str | None = None) -> bytes:
    of_client = "rate_limit_error" if status == 429 else "invalid_request_error"
    kind = of_client if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}, ensure_ascii=False).encode(errors="replace")


def error_response(
    message: str,
    status: int,
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    return Response(error_body(message, status, code, param), status, headers, "application/json")


def name_params(request: Request, names: dict[str, str]) -> None:
    """Let errors about a request name its form's fields instead of those of `requests` and `edits`."""
    request.scope["state"].setdefault("params", {}).update(names)


async def on_stepaudiod_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StepaudiodError)
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    retry_after_s = error.retry_after_s if isinstance(error, Busy) else RETRY_AFTER_S.get(type(error))
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if status in UNFINISHED:
        headers["Connection"] = "close"
    param = error.param if isinstance(error, InvalidRequest) else None
    param = request.scope["state"].get("params", {}).get(param, param)
    return error_response(error.message, status, error.code, param, headers)


async def on_os_error(request: Request, error: Exception) -> Response:
    """A full disk or an unusable directory; any other error is a fault of the daemon."""
    assert isinstance(error, OSError)
    if error.errno in UNUSABLE:
        what = f"The daemon can't use {error.filename or 'a file'}: {error.strerror}."
        found = obstacles(request.app.state.settings().folders)
        advice = " ".join(map(str, found)) or "Run `stepaudioctl doctor` for what to do."
        log.error("%s %s", what, advice)
        return await on_stepaudiod_error(request, EngineUnavailable(f"{what} {advice}"))
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    log.error("the disk is full: %s", error)
    full = DiskFull("The daemon's disk is full. Free some space there, then send the request again.")
    return await on_stepaudiod_error(request, full)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """An unknown path or method; a path with a final slash too many or too few is redirected."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND and (place := _other_slash(request)):
        return RedirectResponse(place)
    message = f"{request.method} {request.url.path}: {error.detail}."
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # each method has its own route, and Starlette reports only the first one's
        routes = [each for each in request.app.routes if each.matches(request.scope)[0] is not Match.NONE]
        methods = {method for route in routes if isinstance(route, Route) for method in route.methods or ()}
        headers["Allow"] = ", ".join(sorted(methods))
    return error_response(message, error.status_code, code, headers=headers)


def _other_slash(request: Request) -> str | None:
    """The path with the other final slash; None if no route matches it.

    It is relative, since a proxy may have removed a prefix of the path.
    """
    path: str = request.scope["path"]
    plain = path.removesuffix("/")
    name = quote(plain.rpartition("/")[2])
    scope = {**request.scope, "path": plain if path.endswith("/") else f"{path}/"}
    if not name or all(route.matches(scope)[0] is Match.NONE for route in request.app.routes):
        return None
    place = f"../{name}" if path.endswith("/") else f"./{name}/"
    return f"{place}?{request.url.query}" if request.url.query else place


async def on_exception(request: Request, error: Exception) -> Response:
    """A fault of the daemon: the server logs it, and the client gets no details."""
    return error_response("The daemon made a mistake; its journal has the details.", 500, "internal_error")


HANDLERS = {
    StepaudiodError: on_stepaudiod_error,
    HTTPException: on_http_exception,
    OSError: on_os_error,
    Exception: on_exception,
}


def refuse_everything(what: str, reason: str) -> ASGIApp:
    """The application of a daemon that could not be built: it answers every request with 503.

    The reason is sent to this machine only, since it quotes the configuration.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_local = scope["state"]["reach"] != "network"
        message = f"{what} {reason if is_local else IN_THE_JOURNAL}"
        await error_response(message, 503, errors.ConfigError.code)(scope, receive, send)

    return app
