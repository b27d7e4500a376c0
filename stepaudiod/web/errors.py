"""The only map from errors to statuses, and the one form every error takes: OpenAI's, all four fields.

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
    errors.ModelFileError: 503,
    errors.SynthesisFailed: 500,
    errors.WorkerLost: 503,
}

RETRY_AFTER_S = {errors.Stopping: 1, errors.WorkerLost: 1}
"""Errors that the same request won't meet again: whole seconds until it is worth sending."""

IN_THE_JOURNAL = "Its journal says why: journalctl -u stepaudiod"

UNFINISHED = (408, 413, 507)
"""Answers to a request that has not come whole: the connection can't carry another."""

UNUSABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # not allowed
    *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP),  # another kind of file than it should be
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN),  # a disk or a mount that has failed
)
"""Errors of the administrator's folders rather than of the daemon's code."""


def error_body(message: str, status: int, code: str | None = None, param: str | None = None) -> bytes:
    """The JSON of one error."""
    if status < 500:
        kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    else:
        kind = "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}, ensure_ascii=False).encode(errors="replace")


def error_response(
    message: str,
    status: int,
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """One error as a response."""
    return Response(error_body(message, status, code, param), status, headers, "application/json")


def name_params(request: Request, names: dict[str, str]) -> None:
    """Let errors about a request name its form's fields.

    Args:
        request: whose errors.
        names: the form's name of each field of `requests` and `edits`, where it differs.
    """
    request.scope["state"].setdefault("params", {}).update(names)


async def on_stepaudiod_error(request: Request, error: Exception) -> Response:
    """One of our own errors."""
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
    """No room for what was sent, or a folder that may not be used; any other is a fault of the daemon."""
    assert isinstance(error, OSError)
    if error.errno in UNUSABLE:
        log.error("the daemon can't use a file that it needs: %s", error)
        return await on_stepaudiod_error(
            request,
            EngineUnavailable(
                f"The daemon can't use {error.filename or 'a file'}: {error.strerror}. `stepaudioctl doctor` "
                "says what to do."
            ),
        )
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    log.error("what a request sent has no room on the disk: %s", error)
    full = DiskFull("The daemon's disk has no room for what was sent. Free some there, then send it again.")
    return await on_stepaudiod_error(request, full)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """No such path, or not with this method; with a slash too many or too few at its end it is redirected."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND and (place := _other_slash(request)):
        return RedirectResponse(place)
    message = f"{request.method} {request.url.path}: {error.detail}."
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return error_response(message, error.status_code, code, headers=headers)


def _other_slash(request: Request) -> str | None:
    """Where the path leads with a slash at its end, or without; None where nothing is there either.

    The place is relative: a proxy may have taken the beginning of the path away.
    """
    path: str = request.scope["path"]
    plain = path.removesuffix("/")
    name = quote(plain.rpartition("/")[2])
    scope = {**request.scope, "path": plain if path.endswith("/") else f"{path}/"}
    if not name or all(route.matches(scope)[0] is Match.NONE for route in request.app.routes):
        return None
    place = f"../{name}" if path.endswith("/") else f"./{name}/"
    return f"{place}?{request.url.query}" if request.url.query else place


def _methods(request: Request) -> set[str]:
    """Every method that the path has; each has a route of its own, and Starlette tells the first one's."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes if isinstance(route, Route) for method in route.methods or ()}


async def on_exception(request: Request, error: Exception) -> Response:
    """A mistake of ours: said in the journal by the server, and to the client without its inside."""
    return error_response("The daemon made a mistake; its journal has the details.", 500, "internal_error")


HANDLERS = {
    StepaudiodError: on_stepaudiod_error,
    HTTPException: on_http_exception,
    OSError: on_os_error,
    Exception: on_exception,
}


def refuse_everything(what: str, reason: str) -> ASGIApp:
    """The application of a daemon that can't be built: 503 for whatever is asked.

    Args:
        what: a sentence that says so.
        reason: why. It is told on this machine alone: it quotes what stands in the configuration.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_local = scope["state"]["reach"] != "network"
        message = f"{what} {reason if is_local else IN_THE_JOURNAL}"
        await error_response(message, 503, errors.ConfigError.code)(scope, receive, send)

    return app
