"""What a listener hears of a stream: when it begins, and the gaps in it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LENGTHS_S = (3.6, 9.6)
"""Of speech, for each listener."""
STREAMS = (1, 4, 16)
"""Listeners at once."""


@dataclass
class Listener:
    """Plays each piece of sound when it comes, or when the sound before it has ended, if that is later.

    Times are those of `time.perf_counter`; `started` is that of the request.
    """

    started: float
    first_s: float = 0.0
    heard_s: float = 0.0
    gaps: int = 0
    silence_s: float = 0.0
    """The length of all gaps."""
    ended: float = 0.0
    """When the last piece came."""
    _plays_until: float = 0.0

    def hear(self, seconds: float, now: float) -> None:
        if not self.heard_s:
            self.first_s, self._plays_until = now - self.started, now
        if now > self._plays_until:
            self.gaps += 1
            self.silence_s += now - self._plays_until
        self._plays_until = max(self._plays_until, now) + seconds
        self.heard_s += seconds
        self.ended = now


def summary(listeners: Sequence[Listener]) -> str:
    """Times real time of all together, first sound and gaps, as text."""
    seconds = sum(each.heard_s for each in listeners)
    took = max(each.ended for each in listeners) - min(each.started for each in listeners)
    firsts = [each.first_s for each in listeners]
    first = f"{statistics.median(firsts):.3f} s"
    if len(firsts) > 1:
        first += f" ({max(firsts):.3f} at most)"
    gaps, silence = sum(each.gaps for each in listeners), max(each.silence_s for each in listeners)
    heard = f"{gaps} gaps, {silence:.2f} s for the worst listener" if gaps else "no gap"
    rate = f"**{seconds / took:.1f} times real time**, {seconds:.1f} s in {took:.2f} s"
    return f"{rate}; first sound {first}; {heard}"
