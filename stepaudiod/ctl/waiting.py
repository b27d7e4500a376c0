"""While the first audio is awaited: what the daemon is doing, for a person who watches."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from stepaudiod.ctl.connect import connect
from stepaudiod.ctl.errors import CtlError

if TYPE_CHECKING:
    from types import TracebackType

    from stepaudiod.ctl.options import Options
    from stepaudiod.ctl.terminal import Terminal

ASK_EVERY_S = 0.5


class Waiting:
    """Asks the daemon what it does, on a connection of its own, until told that the wait is over.

    Does nothing where nobody watches.

    Args:
        options: where the daemon is.
        terminal: shows what it says.
    """

    def __init__(self, options: Options, terminal: Terminal) -> None:
        self._options = options
        self._terminal = terminal
        self._over = threading.Event()
        self._showing = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)

    def __enter__(self) -> Waiting:
        if self._terminal.shows_progress:
            self._terminal.progress("waiting for the daemon")
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """There is something better to show now."""
        with self._showing:
            self._over.set()

    def _watch(self) -> None:
        """Ask and show; an answer that doesn't come is not worth an error here."""
        with contextlib.suppress(CtlError), connect(self._options, self._terminal) as client:
            while not self._over.wait(ASK_EVERY_S):
                text = _doing(client.get("/api/v1/models/status"))
                with self._showing:
                    if not self._over.is_set():
                        self._terminal.progress(text)


def _doing(status: dict[str, Any]) -> str:
    """One line of a status."""
    daemon = status.get("daemon", {})
    if daemon.get("loading"):
        return str(daemon["loading"])
    if daemon.get("queued"):
        return f"{daemon['queued']} waiting for their turn"
    return "waiting for the first audio"
