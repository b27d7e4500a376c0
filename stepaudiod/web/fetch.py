"""Fetch recordings from URLs, without giving clients access to the network (SSRF). Reads no request.

A client that may send a URL could otherwise reach whatever this machine can reach. So:

    - http and https, without user name and password, on ports 80, 443 and from 1024
    - the host is resolved once; all its addresses must be public, and none may be this machine's own
    - the connection goes to the checked address, so DNS rebinding has no effect
    - at most three redirects, each checked like the first URL
    - no proxy, which would resolve names itself; no cookies, nothing of the client's request
    - audio, video or plain bytes, without content encoding, counted while they are received
    - one deadline for all of it
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudiod import __version__
from stepaudiod.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
SCHEMES = {"http": 80, "https": 443}
FIRST_FREE_PORT, LAST_PORT = 1024, 65535
"""Ports below are of mail, shells and similar services; many web servers listen above."""
PLAIN_BYTES = ("application/octet-stream", "binary/octet-stream", "application/ogg")
"""Content types of recordings beside audio and video; object stores send the second."""

UNICAST = ipaddress.ip_network("2000::/3")
NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "2001::/23",  # Teredo and protocol assignments (RFC 2928)
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4: contains an IPv4 address (RFC 3056)
        "3fff::/20",  # documentation (RFC 9637)
    )
]
"""Networks that `is_global` of some Python versions accepts."""

UNIT = (
    "Under systemd the unit forbids it to connect out: docs/moving.md has the drop-in that allows it, under "
    '"Recordings behind URLs".'
)


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, and not one of this machine.

    Of IPv6 only global unicast counts: no mapped, translated (64:ff9b::/96) or tunnelled IPv4 address.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not parsed.is_global or parsed.is_multicast or parsed.is_reserved:
        return False
    if any(parsed in network for network in NOT_PUBLIC if network.version == parsed.version):
        return False
    return (parsed.version == 4 or parsed in UNICAST) and not is_our_own(address)


def is_our_own(address: str) -> bool:
    """Whether this machine has that address: the kernel then uses it as the source. Nothing is sent.

    Packets to an own address pass no firewall, and would reach services that are not public.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == address)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host: getaddrinfo(3).

    It runs in a daemon thread of its own, since a name server may take longer than any deadline: neither the
    thread pool nor the exit of the process waits for it.
    """
    answer: Future[list[Any]] = Future()
    answer.set_running_or_notify_cancel()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in await asyncio.wrap_future(answer)))


Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True)
class Fetcher:
    """Fetches recordings within a limit for each, and a deadline."""

    max_bytes: int
    max_seconds: float
    resolve: Resolve = resolve
    is_public: Callable[[str], bool] = is_public

    async def fetch(self, url: str, target: Path, param: str) -> None:
        """Download a recording to a file. Errors name `param`.

        Raises:
            InvalidRequest: the URL is not allowed, is not a recording, or is too slow.
            TooLarge: it is larger than `max_bytes`.
        """
        await asyncio.to_thread(import_module, "httpx")  # the front starts without it
        try:
            async with asyncio.timeout(self.max_seconds):
                await self._follow(url, target)
        except TimeoutError:
            raise InvalidRequest(
                f"The recording did not come within {self.max_seconds:g} s (timeouts.fetch). Send the "
                f"recording itself. {UNIT}",
                param,
            ) from None
        except InvalidRequest as error:
            error.param = param
            raise

    async def _follow(self, url: str, target: Path) -> None:
        """Follow the redirects, and save the recording."""
        import httpx

        # In a thread, since it reads certificates. No connection is kept: each was checked for one host.
        transport = await asyncio.to_thread(
            httpx.AsyncHTTPTransport, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        async with transport:
            place = _parse(url, None)
            for _ in range(MAX_REDIRECTS + 1):
                request = self._request(place, await self._pin(place))
                try:
                    response = await transport.handle_async_request(request)
                except httpx.HTTPError as error:
                    raise InvalidRequest(_unreachable(place, error)) from None
                try:
                    if response.status_code not in REDIRECTS:
                        await self._take(response, target)
                        return
                    place = _parse(response.headers.get("location", ""), place)
                except httpx.HTTPError:
                    raise InvalidRequest("The URL's server broke off the answer.") from None
                finally:
                    await response.aclose()
        raise InvalidRequest(f"The URL redirects more than {MAX_REDIRECTS} times.")

    async def _pin(self, place: httpx.URL) -> str:
        """The address to connect to; raises if the host has none, or one that is not public."""
        host = place.raw_host.decode()
        try:
            addresses = await self.resolve(host, place.port or SCHEMES[place.scheme])
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise InvalidRequest(f"The URL's host {host[:80]!r} has no address. {UNIT}")
        if not all(map(self.is_public, addresses)):
            raise InvalidRequest(
                f"The URL's host {host[:80]!r} isn't on the public internet. Send the recording itself."
            )
        return addresses[0]

    def _request(self, place: httpx.URL, address: str) -> httpx.Request:
        """A request to that address, with the `Host` and the TLS server name of the URL."""
        import httpx

        headers = {
            "Host": place.netloc.decode(),
            "User-Agent": f"stepaudiod/{__version__}",
            "Accept": "audio/*, video/*, application/octet-stream",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), self.max_seconds)
        extensions = {"sni_hostname": place.raw_host.decode(), "timeout": timeout}
        return httpx.Request("GET", place.copy_with(host=address), headers=headers, extensions=extensions)

    async def _take(self, response: httpx.Response, target: Path) -> None:
        """Save the body, if it is a recording and not too large."""
        if response.status_code != 200:
            raise InvalidRequest(f"The URL's server answered {response.status_code}, and 200 was expected.")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not kind.startswith(("audio/", "video/")) and kind not in PLAIN_BYTES:
            raise InvalidRequest(
                f"The URL leads to {kind[:80]!r}. A recording is audio/*, video/* or one of "
                f"{', '.join(PLAIN_BYTES)}."
            )
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise InvalidRequest("The URL's server compresses its answer; recordings must come uncompressed.")
        size = 0
        with target.open("wb") as file:
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > self.max_bytes:
                    raise TooLarge(
                        f"The URL's recording is larger than {self.max_bytes:,} bytes (limits.max_upload). "
                        "Send a shorter one."
                    )
                file.write(piece)


def _parse(url: str, base: httpx.URL | None) -> httpx.URL:
    """A URL that may be fetched; `base` is the URL that redirected to it."""
    import httpx

    try:
        place = httpx.URL(url) if base is None else base.join(url)
        host = place.host  # decodes punycode labels (xn--), which may be malformed
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidRequest(f"The URL can't be read: {error}.") from None
    if place.scheme not in SCHEMES or not host:
        raise InvalidRequest("Only URLs with http:// or https:// and a host are fetched.")
    if place.userinfo:
        raise InvalidRequest("A URL with a name or a password in it isn't fetched.")
    port = SCHEMES[place.scheme] if place.port is None else place.port
    if port not in SCHEMES.values() and not FIRST_FREE_PORT <= port <= LAST_PORT:
        raise InvalidRequest(
            f"The URL's port {port} isn't one for recordings: 80, 443 and {FIRST_FREE_PORT} to {LAST_PORT} "
            "are."
        )
    return place


def _unreachable(place: httpx.URL, error: BaseException) -> str:
    """The message about a failed connection."""
    host = place.host[:80]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError):
            return f"The system doesn't let the daemon connect to {host!r}. {UNIT}"
        cause = cause.__cause__ or cause.__context__
    return f"The URL's host {host!r} can't be reached: {str(error) or type(error).__name__}."
