"""The progress line of a pull or a check."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from stepaudiod.ctl.terminal import Terminal

EVERY_S = 0.2
MIN_MEASURED_S = 1.0
"""The speed is shown after this time."""


class Progress:
    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._clock = clock
        self._shown_s = float("-inf")
        self.start("", 0, 0)

    def show(self, text: str) -> None:
        self._terminal.progress(text)

    def start(self, verb: str, done_bytes: int, total_bytes: int) -> None:
        """Begin a count; `done_bytes` were done before and don't count for the speed."""
        self._verb = verb
        self._first_bytes = done_bytes
        self._done_bytes = done_bytes
        self._total_bytes = total_bytes
        self._started_s = self._clock()

    def at(self, what: str, done_bytes: int) -> None:
        """Set the number of bytes done; `what` is being done."""
        self._done_bytes = done_bytes
        now_s = self._clock()
        if self._terminal.shows_progress and now_s - self._shown_s >= EVERY_S:
            self._shown_s = now_s
            # a wrapped line couldn't be erased
            self._terminal.progress(self._line(what, now_s)[: shutil.get_terminal_size().columns - 1])

    def add(self, what: str, size_bytes: int) -> None:
        self.at(what, self._done_bytes + size_bytes)

    def _line(self, what: str, now_s: float) -> str:
        counted = f"{self._verb} {size(self._done_bytes)} of {size(self._total_bytes)}"
        passed_s = now_s - self._started_s
        bytes_per_s = (self._done_bytes - self._first_bytes) / max(passed_s, EVERY_S)
        if passed_s < MIN_MEASURED_S or bytes_per_s <= 0:
            return f"{counted}  {what}"
        left_s = (self._total_bytes - self._done_bytes) / bytes_per_s
        return f"{counted}, {size(bytes_per_s)}/s, {_duration(left_s)} left  {what}"


def size(size_bytes: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} bytes"


def _duration(duration_s: float) -> str:
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 5400 else f"{duration_s / 3600:.1f} h"
