"""Lines in the journal that clients can cause at will: so many a minute, and the number of those left out."""

from __future__ import annotations

import logging
import time

MINUTE_S = 60.0


class LogRateLimit:
    """Passes a few lines a minute on to a log.

    Args:
        log: where they go.
        lines: a minute.
    """

    def __init__(self, log: logging.Logger, lines: int) -> None:
        self._log = log
        self._lines = lines
        self._begun = -MINUTE_S
        self._said = self._left_out = 0

    def say(self, level: int, message: str, *values: object) -> None:
        """Log a line, or count it if there have been enough within this minute."""
        now = time.monotonic()
        if now - self._begun >= MINUTE_S:
            if self._left_out:
                self._log.log(level, "%d more lines of this kind were left out", self._left_out)
            self._begun, self._said, self._left_out = now, 0, 0
        if self._said < self._lines:
            self._said += 1
            self._log.log(level, message, *values)
        else:
            self._left_out += 1
