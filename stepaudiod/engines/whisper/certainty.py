"""How sure a recogniser is of what it wrote down, and of its language. Knows no recogniser."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stepaudiod.errors import Unsupported
from stepaudiod.requests import Segment

LEAST_LOG_PROBABILITY = -1.0
"""Text less probable than that is tried again. Source: Whisper (arXiv 2212.04356), section 4.5."""
LEAST_TO_KEEP = -0.75
"""Text less probable than that is no transcript of a voice: what is said in that voice depends on it."""
FEW_WORDS = 4
"""Of fewer words it isn't told whether they are said over and over."""


def is_guess(segments: Iterable[Segment]) -> bool:
    """Whether a transcript is too unsure to be kept as what a recording says.

    What is said over and over is unsure too: its repetitions are likely in every language.
    """
    mean = _Mean()
    for segment in segments:
        mean.add(segment.average_logprob, max(1, len(segment.tokens)))
        words = re.findall(r"\w+", segment.text.lower())
        if len(words) >= FEW_WORDS and 2 * len(set(words)) <= len(words):
            return True
    return mean.value < LEAST_TO_KEEP


class EnglishCheck:
    """Refuses a recording in another language, which a recogniser of English would turn into made-up English.

    Args:
        engine: the recogniser's name.
        param: the request field that has the recording.
        measure: what `add` gets, in words.
        least: the least that English has of it.
        allowance: how much more all of a recording may lack: rare words weigh more in a short one.
    """

    def __init__(self, engine: str, param: str, measure: str, least: float, allowance: float = 0.0) -> None:
        self._engine = engine
        self._param = param
        self._measure = measure
        self._least = least
        self._allowance = allowance
        self._mean = _Mean()

    def add(self, value: float, weight: float) -> None:
        """Take another window, before any of its text is handed on.

        Args:
            value: of the measure.
            weight: how much the window counts for, such as its seconds or tokens.

        Raises:
            Unsupported: all windows so far don't sound like English.
        """
        self._mean.add(value, weight)
        least = self._least - self._allowance / self._mean.weight
        if self._mean.value < least:
            raise Unsupported(
                f"The recording doesn't sound like English, and {self._engine} knows English only: "
                f"{self._measure} is {self._mean.value:.2f}, and English has at least {least:.2f}. For other "
                "languages fetch a larger Whisper: stepaudioctl models pull whisper.",
                self._param,
            )


class _Mean:
    """A weighted mean."""

    def __init__(self) -> None:
        self._sum = 0.0
        self.weight = 0.0

    def add(self, value: float, weight: float) -> None:
        self._sum += value * weight
        self.weight += weight

    @property
    def value(self) -> float:
        """0 where there is nothing to judge."""
        return self._sum / self.weight if self.weight else 0.0
