"""How far a pull or a check is, in one line for a person who watches."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from stepaudiod.ctl.terminal import Terminal

EVERY_S = 0.2
SURE_AFTER_S = 1.0
"""A speed of less than that is a guess."""


class Progress:
    """Counts bytes against a total. Costs nothing where nobody watches.

    Args:
        terminal: shows the line.
        clock: monotonic seconds.
    """

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._clock = clock
        self._shown_s = float("-inf")
        self.start("", 0, 0)

    def say(self, text: str) -> None:
        """Something that can't be counted is being done."""
        self._terminal.progress(text)

    def start(self, verb: str, done_bytes: int, total_bytes: int) -> None:
        """Begin a count; what was done before doesn't count for the speed."""
        self._verb = verb
        self._first_bytes = done_bytes
        self._done_bytes = done_bytes
        self._total_bytes = total_bytes
        self._began_s = self._clock()

    def at(self, what: str, done_bytes: int) -> None:
        """So much is done, and this is what is being done."""
        self._done_bytes = done_bytes
        now_s = self._clock()
        if self._terminal.shows_progress and now_s - self._shown_s >= EVERY_S:
            self._shown_s = now_s
            # a line that wraps can't be taken back
            self._terminal.progress(self._line(what, now_s)[: shutil.get_terminal_size().columns - 1])

    def add(self, what: str, size_bytes: int) -> None:
        """So much more is done."""
        self.at(what, self._done_bytes + size_bytes)

    def _line(self, what: str, now_s: float) -> str:
        """The count, the speed, and how long it may take."""
        counted = f"{self._verb} {size(self._done_bytes)} of {size(self._total_bytes)}"
        passed_s = now_s - self._began_s
        bytes_per_s = (self._done_bytes - self._first_bytes) / max(passed_s, EVERY_S)
        if passed_s < SURE_AFTER_S or bytes_per_s <= 0:
            return f"{counted}  {what}"
        left_s = (self._total_bytes - self._done_bytes) / bytes_per_s
        return f"{counted}, {size(bytes_per_s)}/s, {_duration(left_s)} left  {what}"


def size(size_bytes: float) -> str:
    """Bytes for a person, in powers of ten as disks are sold."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} bytes"


def _duration(duration_s: float) -> str:
    """A time for a person."""
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 5400 else f"{duration_s / 3600:.1f} h"
