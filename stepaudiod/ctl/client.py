"""The HTTP client of the daemon. Every failure is an error that says what to do.

Only this module imports the HTTP library; commands import it when they make a request.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from stepaudiod import __version__
from stepaudiod.ctl.errors import DaemonRefused, IncompleteAudio, Unreachable, WrongUsage
from stepaudiod.ctl.options import ACCOUNT, NO_URL, Options
from stepaudiod.ctl.terminal import Terminal

RETRIES = {429: 5, 503: 1}
"""Number of retries after a response with `Retry-After`; 503 is a daemon or a worker that is exiting."""

MAX_WAIT_S = 60.0
"""Limit of all waits for one response together."""

CONNECT_TIMEOUT_S = 10.0

CLOSED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""The server closed the connection."""


class Client:
    """An HTTP client of one daemon; an invalid server name is `WrongUsage`."""

    def __init__(self, options: Options, terminal: Terminal) -> None:
        try:
            httpx.URL(options.url or "").host  # noqa: B018  # decodes an internationalised name
        except ValueError:
            raise WrongUsage(NO_URL.format(options.url)) from None
        self._options = options
        self._terminal = terminal
        headers = {"User-Agent": f"stepaudioctl/{__version__}"}
        if options.api_key:
            headers["Authorization"] = f"Bearer {options.api_key}"
        self._http = httpx.Client(
            base_url=options.url or "http://stepaudiod",
            transport=None if options.url else httpx.HTTPTransport(uds=options.socket),
            headers=headers,
            timeout=httpx.Timeout(options.timeout_s, connect=min(options.timeout_s, CONNECT_TIMEOUT_S)),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: str) -> Any:
        return self._json(self._http.build_request("GET", path, params=params))

    def post(self, path: str) -> Any:
        return self._json(self._http.build_request("POST", path))

    def speak(self, form: dict[str, Any]) -> AbstractContextManager[Iterator[bytes]]:
        """Stream the audio; leaving the context stops the work. Cut-off audio is `IncompleteAudio`."""
        return self._stream(self._http.build_request("POST", "/v1/audio/speech", json=form))

    def edit(self, fields: dict[str, str], recording: bytes) -> AbstractContextManager[Iterator[bytes]]:
        files = {"file": ("recording.wav", recording, "audio/wav")}
        return self._stream(self._http.build_request("POST", "/v1/audio/edits", data=fields, files=files))

    @contextmanager
    def _stream(self, request: httpx.Request) -> Iterator[Iterator[bytes]]:
        with closing(self._send(request)) as response:
            self._expect(response, "audio/")
            yield self._audio(response)

    def _audio(self, response: httpx.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_raw()
        except CLOSED:
            raise IncompleteAudio(
                "The daemon cut the audio off; its journal says why (journalctl -u stepaudiod). Try again."
            ) from None
        except httpx.TimeoutException:
            raise IncompleteAudio(
                f"No more audio came for {self._options.timeout_s:g} s (--timeout)."
            ) from None

    def _json(self, request: httpx.Request) -> Any:
        with closing(self._send(request)) as response:
            self._expect(response, "application/json")
            try:
                response.read()
                return response.json()
            except (*CLOSED, httpx.TimeoutException, ValueError) as error:
                message = f"The response of {self._options.where} was incomplete ({error}). Try again."
                raise Unreachable(message) from None

    def _expect(self, response: httpx.Response, media_type: str) -> None:
        """Require a content type: another server may answer at the address."""
        found = response.headers.get("content-type", "")
        if not found.startswith(media_type):
            message = f"{self._options.where} sent {found or 'nothing'}, not {media_type}. Is it stepaudiod?"
            raise DaemonRefused(message, response.status_code)

    def _send(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and retry it when the response asks for that."""
        retries = dict(RETRIES)
        remaining_s = min(MAX_WAIT_S, self._options.timeout_s)
        while True:
            response = self._connect_and_send(request)
            if response.is_success:
                return response
            wait_s = _retry_after_s(response)
            if wait_s is None or wait_s > remaining_s or not retries.get(response.status_code):
                raise _refused(response)
            response.close()
            retries[response.status_code] -= 1
            remaining_s -= wait_s
            self._terminal.progress(f"the daemon is busy, trying again in {wait_s:g} s")
            time.sleep(wait_s)

    def _connect_and_send(self, request: httpx.Request, *, is_retry: bool = False) -> httpx.Response:
        """Receive the response's headers. A daemon that is exiting may close first: the next one answers."""
        try:
            return self._http.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(self._advice(error)) from None
        except CLOSED:
            if not is_retry:
                return self._connect_and_send(request, is_retry=True)
            raise Unreachable(
                f"{self._options.where} closes connections without a response: journalctl -u stepaudiod"
            ) from None
        except httpx.TimeoutException:
            message = f"{self._options.where} gave no answer for {self._options.timeout_s:g} s (--timeout)."
            raise Unreachable(message) from None

    def _advice(self, error: httpx.TransportError) -> str:
        where, unit = self._options.where, self._options.unit
        if self._options.url:
            return f"No connection to {where} ({error}). Is the server running, and is the address correct?"
        match _errno(error):
            case errno.ENOENT:
                return (
                    f"There is no socket {where}. Is {unit} active? "
                    f"Start it: systemctl enable --now {unit}. Another address: --socket, --url."
                )
            case errno.ECONNREFUSED if not Path(where).is_socket():
                return f"{where} isn't a socket. Name the daemon's: --socket, $STEPAUDIOCTL_SOCKET or --url."
            case errno.ECONNREFUSED:
                return (
                    f"No process listens at {where}; the file was left by a daemon that has exited. "
                    f"Is {unit} active? Start it: systemctl restart {unit}."
                )
            case errno.EACCES | errno.EPERM:
                return (
                    f"You may not use {where}; members of the group {ACCOUNT} may. "
                    f"Join it: sudo usermod -aG {ACCOUNT} $USER, then log in again."
                )
        return f"No connection to {where} ({error}). Is {unit} active?"


def _errno(error: BaseException) -> int | None:
    """The error number of the OSError below the library's error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.errno
        cause = cause.__cause__ or cause.__context__
    return None


def _retry_after_s(response: httpx.Response) -> float | None:
    """The Retry-After header, if it is in seconds."""
    text = response.headers.get("retry-after", "")
    return max(1.0, float(text)) if text.isascii() and text.isdigit() else None


def _refused(response: httpx.Response) -> DaemonRefused:
    status = response.status_code
    with closing(response):
        try:
            response.read()
            error = response.json()["error"]
            return DaemonRefused(str(error["message"]), status, error.get("code"), error.get("param"))
        except (httpx.HTTPError, ValueError, TypeError, KeyError):
            return DaemonRefused(f"The server answered {status} {response.reason_phrase}.", status)
