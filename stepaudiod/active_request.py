"""A request that the dispatcher runs, and what the journal and the counters record of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepaudiod.counters import Counters
from stepaudiod.fair_queue import Turn
from stepaudiod.requests import Audio, EngineDescription, Facts, Result, Work, kind_of

if TYPE_CHECKING:
    from stepaudiod.worker.process import Reply

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """A request, from its arrival to its end.

    Attributes:
        format: of the audio; None for a transcription.
        caller: the name of its API key; "" where it needed none.
        deadline: on the loop's clock.
        reply: what the worker sends back; None while it has not been sent.
        is_started: whether it has had a turn.
        started: when it arrived, on the monotonic clock.
        outcome: one of `counters.OUTCOMES`.
        first_audio_s: seconds from its arrival to its first audio; None before that.
        has_begun: whether any audio or text has been received from the worker.
        is_finished: whether the worker has finished it.
    """

    engine: EngineDescription
    work: Work
    format: str | None
    request_id: str
    caller: str
    turn: Turn
    deadline: float
    reply: Reply | None = None
    is_started: bool = False
    started: float = field(default_factory=time.monotonic)
    outcome: str = "cancelled"
    audio_s: float = 0.0
    first_audio_s: float | None = None
    has_begun: bool = False
    is_finished: bool = False

    @property
    def duration_s(self) -> float:
        return time.monotonic() - self.started

    def note(self, piece: Result) -> None:
        self.has_begun = self.has_begun or not isinstance(piece, Facts)
        if isinstance(piece, Audio):
            self.audio_s += piece.duration_s
            if self.first_audio_s is None:
                self.first_audio_s = self.duration_s

    def record(self, counters: Counters) -> None:
        """Count it, and write one line with fields for the journal; never the text itself."""
        kind = kind_of(self.work)
        counters.requests[kind, self.outcome] += 1
        counters.duration[kind].observe(self.duration_s)
        counters.audio_s[self.engine.name] += self.audio_s
        if self.first_audio_s is not None:
            counters.first_audio[self.engine.name].observe(self.first_audio_s)
        fields = {
            "REQUEST_ID": self.request_id,
            "ENGINE": self.engine.name,
            "DURATION_MS": round(self.duration_s * 1000),
            "CALLER": self.caller or "-",
        }
        log.info(
            "%s %s: %.1f s of speech in %.2f s [%s]%s",
            self.engine.name,
            self.outcome,
            self.audio_s,
            self.duration_s,
            self.request_id,
            f" for {self.caller}" if self.caller else "",
            extra=fields,
        )
