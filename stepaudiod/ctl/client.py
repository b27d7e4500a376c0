"""HTTP to the daemon: one request at a time, every failure as an error that says what to do.

Only this module needs the HTTP library, and it is imported when a request is made.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from stepaudiod import __version__
from stepaudiod.ctl.errors import DaemonRefused, IncompleteAudio, Unreachable, WrongUsage
from stepaudiod.ctl.options import NO_URL

if TYPE_CHECKING:
    from types import TracebackType

    from stepaudiod.ctl.options import Options
    from stepaudiod.ctl.terminal import Terminal

RETRIES = {429: 5, 503: 1}
"""How often to come back when an answer says `Retry-After`; 503 is a daemon or a worker that is leaving."""

LONGEST_WAIT_S = 60.0
"""All waits for one answer together."""

CONNECT_TIMEOUT_S = 10.0

CLOSED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""The connection ended under us."""


class Client:
    """One daemon.

    Args:
        options: where it is.
        terminal: is told when a wait is long.

    Raises:
        WrongUsage: the server's name can't be one.
    """

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: str) -> Any:
        """What the daemon says there."""
        return self._json(self._http.build_request("GET", path, params=params))

    def post(self, path: str) -> Any:
        """What the daemon says to an order without a body."""
        return self._json(self._http.build_request("POST", path))

    @contextmanager
    def speak(self, form: dict[str, Any]) -> Iterator[Iterator[bytes]]:
        """The audio of one request, as it comes. Leaving the context stops the work in the daemon.

        Raises:
            IncompleteAudio: while iterating, when the audio ends before its end.
        """
        with self._listen(self._http.build_request("POST", "/v1/audio/speech", json=form)) as audio:
            yield audio

    @contextmanager
    def edit(self, fields: dict[str, str], recording: bytes) -> Iterator[Iterator[bytes]]:
        """The audio of a changed recording, as it comes; see `speak`."""
        files = {"file": ("recording.wav", recording, "audio/wav")}
        request = self._http.build_request("POST", "/v1/audio/edits", data=fields, files=files)
        with self._listen(request) as audio:
            yield audio

    @contextmanager
    def _listen(self, request: httpx.Request) -> Iterator[Iterator[bytes]]:
        """The audio that answers a request."""
        response = self._send(request)
        try:
            self._expect(response, "audio/")
            yield self._audio(response)
        finally:
            response.close()

    def _audio(self, response: httpx.Response) -> Iterator[bytes]:
        """The body; an end that HTTP doesn't confirm is an error."""
        try:
            yield from response.iter_raw()
        except CLOSED:
            message = (
                "The daemon cut the audio off before its end; its journal says why. Send the text again."
            )
            raise IncompleteAudio(message) from None
        except httpx.TimeoutException:
            raise IncompleteAudio(
                f"No more audio came for {self._options.timeout_s:g} s (--timeout)."
            ) from None

    def _json(self, request: httpx.Request) -> Any:
        """A small answer, whole."""
        response = self._send(request)
        try:
            self._expect(response, "application/json")
            response.read()
            return response.json()
        except (*CLOSED, httpx.TimeoutException, ValueError) as error:
            raise Unreachable(
                f"The answer of {self._options.where} came incomplete ({error}). Try again."
            ) from None
        finally:
            response.close()

    def _expect(self, response: httpx.Response, media_type: str) -> None:
        """Not every server that answers is the daemon."""
        found = response.headers.get("content-type", "")
        if not found.startswith(media_type):
            message = f"{self._options.where} sent {found or 'nothing'}, not {media_type}. Is it stepaudiod?"
            raise DaemonRefused(message, response.status_code)

    def _send(self, request: httpx.Request) -> httpx.Response:
        """The answer to a request; comes back later when told to."""
        retries = dict(RETRIES)
        patience_s = min(LONGEST_WAIT_S, self._options.timeout_s)
        while True:
            response = self._connect_and_send(request)
            if response.is_success:
                return response
            wait_s = _retry_after_s(response)
            if wait_s is None or wait_s > patience_s or not retries.get(response.status_code):
                raise _refused(response)
            response.close()
            retries[response.status_code] -= 1
            patience_s -= wait_s
            self._terminal.progress(f"the daemon is busy, trying again in {wait_s:g} s")
            time.sleep(wait_s)

    def _connect_and_send(self, request: httpx.Request, *, is_retry: bool = False) -> httpx.Response:
        """The head of an answer. A daemon that is just leaving may close first: the next one answers."""
        try:
            return self._http.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(self._advice(error)) from None
        except CLOSED:
            if not is_retry:
                return self._connect_and_send(request, is_retry=True)
            message = f"{self._options.where} closes connections without an answer: journalctl -u stepaudiod"
            raise Unreachable(message) from None
        except httpx.TimeoutException:
            message = f"{self._options.where} gave no answer for {self._options.timeout_s:g} s (--timeout)."
            raise Unreachable(message) from None

    def _advice(self, error: httpx.TransportError) -> str:
        """Why there is no connection, and what to do."""
        where = self._options.where
        if self._options.url:
            return f"No connection to {where} ({error}). Is the server on, and the address right?"
        match _errno(error):
            case errno.ENOENT:
                return (
                    f"There is no socket {where}. Is stepaudiod.socket active? "
                    "Start it: systemctl enable --now stepaudiod.socket. Is it elsewhere? --socket, --url."
                )
            case errno.ECONNREFUSED if not Path(where).is_socket():
                return f"{where} isn't a socket. Name the daemon's: --socket, $STEPAUDIOCTL_SOCKET or --url."
            case errno.ECONNREFUSED:
                return (
                    f"Nobody listens at {where}; the file is left over from a daemon that ended. "
                    "Is stepaudiod.socket active? Start it: systemctl restart stepaudiod.socket."
                )
            case errno.EACCES | errno.EPERM:
                return (
                    f"You may not use {where}. Its users are the group stepaudio: "
                    "sudo usermod -aG stepaudio $USER, then log in again."
                )
        return f"No connection to {where} ({error}). Is stepaudiod.socket active?"


def _errno(error: BaseException) -> int | None:
    """The system's own word, below the library's errors."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.errno
        cause = cause.__cause__ or cause.__context__
    return None


def _retry_after_s(response: httpx.Response) -> float | None:
    """When to come back, where the answer says it in seconds."""
    text = response.headers.get("retry-after", "")
    return max(1.0, float(text)) if text.isascii() and text.isdigit() else None


def _refused(response: httpx.Response) -> DaemonRefused:
    """The daemon's error, in OpenAI's form or in any other."""
    status = response.status_code
    try:
        response.read()
        error = response.json()["error"]
        return DaemonRefused(str(error["message"]), status, error.get("code"), error.get("param"))
    except (httpx.HTTPError, ValueError, TypeError, KeyError):
        return DaemonRefused(f"The server answered {status} {response.reason_phrase}.", status)
    finally:
        response.close()
