"""The certainty of a transcript and of its language. Independent of the recogniser."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stepaudiod.errors import Unsupported
from stepaudiod.requests import Segment

LEAST_LOG_PROBABILITY = -1.0
"""Text below this is decoded again. Source: Whisper (arXiv 2212.04356), section 4.5."""
LEAST_TO_KEEP = -0.75
"""Text below this is not used as a voice's transcript, on which all of its speech depends."""
FEW_WORDS = 4
"""Repetition isn't detected in fewer words."""


def is_guess(segments: Iterable[Segment]) -> bool:
    """Whether a transcript is too uncertain to be stored.

    A repetitive one is uncertain too: repetitions are likely in every language.
    """
    mean = _Mean()
    for segment in segments:
        mean.add(segment.average_logprob, max(1, len(segment.tokens)))
        words = re.findall(r"\w+", segment.text.lower())
        if len(words) >= FEW_WORDS and 2 * len(set(words)) <= len(words):
            return True
    return mean.value < LEAST_TO_KEEP


class EnglishCheck:
    """Refuses a recording in another language, which an English recogniser would turn into invented English.

    Args:
        measure: description of the values.
        least: of English.
        allowance: how far the sum over a recording may be below: rare words weigh more in a short one.
    """

    def __init__(self, engine: str, measure: str, least: float, allowance: float = 0.0) -> None:
        self._engine = engine
        self._measure = measure
        self._least = least
        self._allowance = allowance
        self._mean = _Mean()

    def add(self, value: float, weight: float) -> None:
        """Add a window, weighted by its seconds or tokens, before any of its text is returned.

        Raises:
            Unsupported: the windows so far don't sound like English.
        """
        self._mean.add(value, weight)
        least = self._least - self._allowance / self._mean.weight
        if self._mean.value < least:
            raise Unsupported(
                f"The recording doesn't sound like English, and {self._engine} supports English only: "
                f"{self._measure} is {self._mean.value:.2f}, and English has at least {least:.2f}. For other "
                "languages fetch a larger Whisper: stepaudioctl models pull whisper.",
                "recording",
            )


class _Mean:
    def __init__(self) -> None:
        self._sum = 0.0
        self.weight = 0.0

    def add(self, value: float, weight: float) -> None:
        self._sum += value * weight
        self.weight += weight

    @property
    def value(self) -> float:
        return self._sum / self.weight if self.weight else 0.0
