"""Limits the log lines that clients can cause: a number per minute, then a count of the omitted ones."""

from __future__ import annotations

import logging
import time

MINUTE_S = 60.0


class LogRateLimit:
    """Passes at most `lines` lines per minute on to `log`."""

    def __init__(self, log: logging.Logger, lines: int) -> None:
        self._log = log
        self._lines = lines
        self._started = -MINUTE_S
        self._logged = self._omitted = 0

    def log(self, level: int, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._started >= MINUTE_S:
            if self._omitted:
                self._log.log(level, "%d more lines of this kind were omitted", self._omitted)
            self._started, self._logged, self._omitted = now, 0, 0
        if self._logged < self._lines:
            self._logged += 1
            self._log.log(level, message, *values)
        else:
            self._omitted += 1
