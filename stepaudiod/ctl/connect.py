"""Connects to the daemon, and shows its state until the first audio arrives."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from stepaudiod.ctl.errors import CtlError
from stepaudiod.ctl.options import Options
from stepaudiod.ctl.terminal import Terminal

if TYPE_CHECKING:
    from stepaudiod.ctl.client import Client

POLL_S = 0.5


def connect(options: Options, terminal: Terminal) -> Client:
    from stepaudiod.ctl.client import Client  # the HTTP library is slow to import

    return Client(options, terminal)


class DaemonProgress:
    """Polls the daemon's status on another connection until `end`. Inactive without a terminal."""

    def __init__(self, options: Options, terminal: Terminal) -> None:
        self._options = options
        self._terminal = terminal
        self._over = threading.Event()
        self._showing = threading.Lock()
        self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)

    def __enter__(self) -> DaemonProgress:
        if self._terminal.shows_progress:
            self._terminal.progress("waiting for the daemon")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        with self._showing:
            self._over.set()

    def _poll(self) -> None:
        """Show the status; a failure to get it is not an error here."""
        with contextlib.suppress(CtlError), connect(self._options, self._terminal) as client:
            while not self._over.wait(POLL_S):
                text = _describe(client.get("/api/v1/models/status"))
                with self._showing:
                    if not self._over.is_set():
                        self._terminal.progress(text)


def _describe(status: dict[str, Any]) -> str:
    daemon = status.get("daemon", {})
    if daemon.get("loading"):
        return str(daemon["loading"])
    if daemon.get("queued"):
        return f"{daemon['queued']} requests are queued"
    return "waiting for the first audio"
