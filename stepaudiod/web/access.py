"""Who may call: the name they call us by, the page they come from, the key they show. Plain ASGI.

    unix socket   its permissions decide, nothing is asked here; a good key is noted
    loopback      name and origin; a key too where `access.auth` is "keys"
    network       name, origin and a key, unless `access.auth` is "none"

Name and origin are about web pages. A page may point its own name at 127.0.0.1 (DNS rebinding): to the
browser we are then that site, and only the name, in `Host`, gives it away. And a page of any site may send a
form or start a request here, whose answer it can't read: `Sec-Fetch-Site` and `Origin`, which pages can't
forge, tell.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import re
from collections.abc import Callable
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
"""Says nothing but that we live, so it needs no key."""

REFUSED_LINES = 10
"""Lines a minute about requests that were refused."""

METHODS = "GET, POST, PUT, PATCH, DELETE"
PREFLIGHT_AGE_S = "600"


class Access:
    """Lets a request pass, or answers why not.

    Args:
        app: what is behind it.
        settings: the configuration as it is now.
        keys: the API keys as they are now.
    """

    def __init__(self, app: ASGIApp, settings: Callable[[], Settings], keys: Callable[[], ApiKeys]) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._refusals = LogRateLimit(log, REFUSED_LINES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        name = self._caller(headers)
        scope["state"]["caller"] = name or ""
        scope["state"]["share"] = f"key {name}" if name else scope["state"]["peer"]
        if scope["state"]["reach"] == "unix":
            await self._app(scope, receive, send)
            return
        origin = _origin(headers)
        has_friend = origin in self._settings().access.origins
        if has_friend:
            send = _readable_by(origin, send)
        try:
            self._check_host(scope, headers)
            if not has_friend:
                _check_origin(scope, headers)
            elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(headers)(scope, receive, send)
                return
            self._check_key(scope, headers)
        except StepaudiodError as error:
            client = scope["client"][0] if scope["client"] else "a client that has gone"
            request_id = scope["state"]["request_id"]
            self._refusals.log(logging.INFO, "refused %s: %s [%s]", client, error.code, request_id)
            response = await _refusal(error, scope, headers)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        """Raise if we aren't called by a name of ours."""
        asked = _take_authority(scope) or headers.get("host", "")
        name = _name(asked)
        ours = LOCAL_NAMES | {_plain(host) for host in self._settings().access.hosts}
        if name is None or name not in ours | {_plain(scope["server"][0])}:
            raise HostRefused(
                f"This daemon isn't called {asked!r}. If the name is this machine's, add it to access.hosts."
            )

    def _caller(self, headers: Headers) -> str | None:
        """The name of the key that a request shows; None where it is none of this daemon's."""
        key = _given_key(headers)
        return self._keys().name_of(key) if key else None

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        """Raise if a key is needed and there is no good one."""
        auth, is_network = self._settings().access.auth, scope["state"]["reach"] == "network"
        if auth == "none" or (auth == "auto" and not is_network) or scope["path"] == OPEN_TO_ALL:
            return
        keys = self._keys()
        if not keys.digests:
            raise ConfigError(
                "Calls to this socket need an API key, and the daemon has none"
                f"{_because(keys, is_network)}. On the machine: {api_keys.HOW_TO}, then systemctl reload"
                ' stepaudiod. To serve without keys, write auth = "none" under [access].'
            )
        if not scope["state"]["caller"]:
            given = _given_key(headers)
            what = "This API key isn't one of this daemon's." if given else "An API key is needed here."
            raise KeyRefused(
                f"{what} Send it as Authorization: Bearer KEY; a browser that asks takes it as the password."
                f" On the daemon's machine, {api_keys.HOW_TO} makes one."
            )


def _because(keys: ApiKeys, is_network: bool) -> str:
    """What is wrong with the keys; paths and lines are nobody's business in the network."""
    return f" ({keys.problem})" if keys.problem and not is_network else ""


def _take_authority(scope: Scope) -> str | None:
    """A target in absolute form names the host, and that one counts (RFC 9112, 3.2.2); the path stays."""
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


def _name(host: str) -> str | None:
    """The name in a `Host` header without its port; None where it isn't one."""
    found = HOST.fullmatch(host)
    return _plain(found["name"]) if found else None


def _plain(name: str) -> str:
    """One spelling for each name and address."""
    name = name.strip("[]").partition("%")[0].lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _origin(headers: Headers) -> str:
    """The page's origin; "" where no header names one. Two headers are no origin that could be allowed."""
    return ", ".join(headers.getlist("origin"))


def _check_origin(scope: Scope, headers: Headers) -> None:
    """Raise if a page of another site asks. Programs send neither header."""
    site, origin = headers.get("sec-fetch-site"), _origin(headers)
    if site is None:
        is_own = not origin or origin == f"http://{headers.get('host')}"
    else:
        is_own = site in ("same-origin", "none") or _is_link(scope, headers)
    if not is_own:
        raise OriginRefused(
            f"A page of another site ({origin or site}) may not call this daemon."
            " To allow it, add its origin to access.origins."
        )


def _is_link(scope: Scope, headers: Headers) -> bool:
    """Somebody followed a link to us: a page of its own, which the other site can't look into."""
    return (
        scope["method"] in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _given_key(headers: Headers) -> bytes:
    """The key of a bearer token, or the password of a browser; empty where there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""


async def _refusal(error: StepaudiodError, scope: Scope, headers: Headers) -> Response:
    """The error as an answer."""
    response = await on_stepaudiod_error(Request(scope), error)
    if isinstance(error, KeyRefused):
        is_browser = "text/html" in headers.get("accept", "")
        response.headers["WWW-Authenticate"] = f'{"Basic" if is_browser else "Bearer"} realm="stepaudiod"'
    return response


def _preflight(headers: Headers) -> Response:
    """Yes to a browser that asks before a page of a friendly site calls."""
    allowed = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": PREFLIGHT_AGE_S}
    if wanted := headers.get("access-control-request-headers"):
        allowed["Access-Control-Allow-Headers"] = wanted
    return Response(status_code=204, headers=allowed)


def _readable_by(origin: str, send: Send) -> Send:
    """Let a page of that origin read the answer and our own headers. It shows a key, never a cookie."""

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
