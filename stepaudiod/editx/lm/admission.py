"""A line: who came first gets in first, unless they have stopped asking. Knows not what is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 3.0
"""Who hasn't asked for so long, since nobody reads their sound, no longer keeps others waiting."""


class AdmissionQueue:
    """Who waits for one thing, and when each last asked. Not for several threads at a time.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: dict[object, float] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, who: object) -> bool:
        """Stand in the line, and tell whether it is one's turn."""
        now = self._asked[who] = self._clock()
        return next(each for each, asked in self._asked.items() if now - asked < PATIENCE_S) == who

    def leave(self, who: object) -> None:
        """Be served, or give up; leaving twice does nothing."""
        self._asked.pop(who, None)
