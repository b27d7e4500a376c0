"""Access control: the host name of a request, the web page it comes from, and its API key. Plain ASGI.

    unix socket   its permissions decide, and nothing is checked here; a valid key is noted
    loopback      host and origin; a key too if `access.auth` is "keys"
    network       host, origin and a key, unless `access.auth` is "none"

Host and origin protect against web pages. A page may let its own name resolve to 127.0.0.1 (DNS rebinding):
for the browser the daemon is then that site, and only the name in `Host` shows it. A page of any site may
also send a form or a request here without reading the answer: `Sec-Fetch-Site` and `Origin`, which pages
can't forge, show it.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepaudiod import api_keys
from stepaudiod.api_keys import ApiKeys
from stepaudiod.config import Settings
from stepaudiod.errors import ConfigError, HostRefused, KeyRefused, OriginRefused, StepaudiodError
from stepaudiod.log_rate_limit import LogRateLimit
from stepaudiod.web.errors import on_stepaudiod_error

log = logging.getLogger(__name__)

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
OPEN_TO_ALL = "/healthz"
"""Needs no key, since it only says that the daemon is alive."""

REFUSED_LINES = 10
"""Log lines a minute about refused requests."""

METHODS = "GET, POST, PUT, PATCH, DELETE"
PREFLIGHT_AGE_S = "600"


class Access:
    """Passes a request on, or answers it with an error."""

    def __init__(self, app: ASGIApp, settings: Callable[[], Settings], keys: Callable[[], ApiKeys]) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._refusals = LogRateLimit(log, REFUSED_LINES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        key = _given_key(headers)
        name = self._keys().name_of(key) if key else None
        scope["state"]["caller"] = name or ""
        scope["state"]["share"] = f"key {name}" if name else scope["state"]["peer"]
        if scope["state"]["reach"] == "unix":
            await self._app(scope, receive, send)
            return
        origin = ", ".join(headers.getlist("origin"))  # two headers never match an allowed origin
        is_allowed = origin in self._settings().access.origins
        if is_allowed:
            send = _readable_by(origin, send)
        try:
            self._check_host(scope, headers)
            if not is_allowed:
                _check_origin(origin, scope, headers)
            elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(headers)(scope, receive, send)
                return
            self._check_key(scope, headers)
        except StepaudiodError as error:
            client = scope["client"][0] if scope["client"] else "a client that has gone"
            request_id = scope["state"]["request_id"]
            self._refusals.log(logging.INFO, "refused %s: %s [%s]", client, error.code, request_id)
            response = await on_stepaudiod_error(Request(scope), error)
            if isinstance(error, KeyRefused):
                scheme = "Basic" if "text/html" in headers.get("accept", "") else "Bearer"  # for browsers
                response.headers["WWW-Authenticate"] = f'{scheme} realm="stepaudiod"'
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        asked = _take_authority(scope) or headers.get("host", "")
        found = HOST.fullmatch(asked)
        ours = map(_plain, (*self._settings().access.hosts, scope["server"][0]))
        if found is None or _plain(found["name"]) not in LOCAL_NAMES.union(ours):
            raise HostRefused(
                f"This daemon isn't called {asked!r}. If the name is this machine's, add it to access.hosts."
            )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        """Raise if a key is needed and there is no valid one."""
        auth, is_network = self._settings().access.auth, scope["state"]["reach"] == "network"
        if auth == "none" or (auth == "auto" and not is_network) or scope["path"] == OPEN_TO_ALL:
            return
        keys = self._keys()
        if not keys.digests:
            because = f" ({keys.problem})" if keys.problem and not is_network else ""  # it names files
            raise ConfigError(
                f"Calls to this socket need an API key, and the daemon has none{because}. On the machine: "
                f"{api_keys.HOW_TO}, then systemctl reload stepaudiod. To serve without keys, write "
                'auth = "none" under [access].'
            )
        if not scope["state"]["caller"]:
            given = _given_key(headers)
            what = "This API key isn't one of this daemon's." if given else "An API key is needed here."
            raise KeyRefused(
                f"{what} Send it as Authorization: Bearer KEY; a browser that asks takes it as the password."
                f" On the daemon's machine, {api_keys.HOW_TO} makes one."
            )


def _take_authority(scope: Scope) -> str | None:
    """Take the host out of a target in absolute form, where it overrides `Host` (RFC 9112, 3.2.2)."""
    target: str = scope["raw_path"].decode("latin-1")
    if not re.match(r"(?i)https?://", target):
        return None
    try:
        parts = urlsplit(target)
    except ValueError:
        return target
    scope["raw_path"] = (parts.path or "/").encode("latin-1")
    scope["path"] = unquote(parts.path or "/")
    return parts.netloc


def _plain(name: str) -> str:
    """One spelling for each name and address."""
    name = name.strip("[]").partition("%")[0].lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _check_origin(origin: str, scope: Scope, headers: Headers) -> None:
    """Raise if the request comes from a page of another site. Programs send neither header."""
    site = headers.get("sec-fetch-site")
    if site is None:
        is_own = not origin or origin == f"http://{headers.get('host')}"
    else:
        # of a link that was followed, the answer is a page of its own, which the other site can't read
        purpose = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
        is_link = scope["method"] in ("GET", "HEAD") and purpose == ("navigate", "document")
        is_own = site in ("same-origin", "none") or is_link
    if not is_own:
        raise OriginRefused(
            f"A page of another site ({origin or site}) may not call this daemon."
            " To allow it, add its origin to access.origins."
        )


def _given_key(headers: Headers) -> bytes:
    """The key of a bearer token, or the password that a browser sends; empty without one."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    with suppress(ValueError):
        if scheme.lower() == "basic":
            return base64.b64decode(value, validate=True).partition(b":")[2]
    return b""


def _preflight(headers: Headers) -> Response:
    """The answer to a browser's preflight request (CORS) for a page of an allowed origin."""
    allowed = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": PREFLIGHT_AGE_S}
    if wanted := headers.get("access-control-request-headers"):
        allowed["Access-Control-Allow-Headers"] = wanted
    return Response(status_code=204, headers=allowed)


def _readable_by(origin: str, send: Send) -> Send:
    """Let a page of that origin read the answer and our headers. It sends a key, never a cookie."""

    async def send_readable(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            headers["Access-Control-Allow-Origin"] = origin
            headers.add_vary_header("Origin")
            ours = [name for name in headers if name.startswith("x-") or name == "retry-after"]
            headers["Access-Control-Expose-Headers"] = ", ".join(dict.fromkeys(["x-request-id", *ours]))
            message["headers"] = headers.raw
        await send(message)

    return send_readable
