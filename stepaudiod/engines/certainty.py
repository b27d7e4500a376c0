"""How sure a recogniser is of what it wrote down. Knows no recogniser.

Logarithms of token probabilities, measured with Whisper tiny.en at temperature 0, with noise down to 8 dB
below the voice. The mean of English sentences is -0.2 to -0.9, of Chinese ones -0.95 to -1.2: rare names are
as unlikely as another language. The median tells them apart: 0 to -0.6 where most words are plain, and -0.6
to -1.1 in Chinese. Of one or two words neither tells much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from stepaudiod.errors import Unsupported
from stepaudiod.speech import Segment

LEAST_LOG_PROBABILITY = -1.0
"""Text less probable than that is tried again. Source: Whisper (arXiv 2212.04356), section 4.5."""
LEAST_TO_KEEP = -0.75
"""Text less probable than that is no transcript of a voice: what is said in that voice depends on it."""
FEW_WORDS = 4
"""Of fewer words it isn't told whether they are said over and over."""
CERTAIN = -0.7
"""A text with that mean is English without a look at the median."""
LEAST_OF_ENGLISH = -1.3
"""What a recogniser of English writes down of English has at least that as mean and median together,"""
AT_THE_ENDS = -5.2
"""with that much in all for one rare word and for the ends of speech, which weigh in a short recording."""


def is_guess(segments: Iterable[Segment]) -> bool:
    """Whether a transcript is too unsure to be kept as what a recording says.

    What is said over and over is unsure too: its repetitions are likely in every language.
    """
    mean = _Mean()
    for segment in segments:
        mean.add(segment.average_logprob, len(segment.tokens))
        words = re.findall(r"\w+", segment.text.lower())
        if len(words) >= FEW_WORDS and 2 * len(set(words)) <= len(words):
            return True
    return mean.value < LEAST_TO_KEEP


class EnglishCheck:
    """Refuses a recording in another language, which a recogniser of English would turn into made-up English.

    Args:
        engine: the recogniser's name.
        param: the request field that has the recording.
    """

    def __init__(self, engine: str, param: str) -> None:
        self._engine = engine
        self._param = param
        self._mean = _Mean()

    def add(self, certainty: float, tokens: int) -> None:
        """Take what the likeliest text of another window has, before any of it is handed on.

        Args:
            certainty: mean and median of its tokens' log-probabilities, added up; the mean alone where that
                is above `CERTAIN`.
            tokens: how many it has.

        Raises:
            Unsupported: all windows so far don't sound like English.
        """
        self._mean.add(certainty, tokens)
        least = LEAST_OF_ENGLISH + AT_THE_ENDS / self._mean.tokens
        if self._mean.value < least:
            raise Unsupported(
                f"The recording doesn't sound like English, and {self._engine} knows English only: mean and "
                f"median log-probability of what it heard are {self._mean.value:.2f} together, and English "
                f"has at least {least:.2f}. For other languages fetch a larger Whisper: "
                "stepaudioctl models pull whisper.",
                self._param,
            )


class _Mean:
    """Of log-probabilities, each with the number of its tokens."""

    def __init__(self) -> None:
        self._sum = 0.0
        self.tokens = 0

    def add(self, average_logprob: float, tokens: int) -> None:
        count = max(1, tokens)
        self._sum += average_logprob * count
        self.tokens += count

    @property
    def value(self) -> float:
        """0 where there is nothing to judge."""
        return self._sum / self.tokens if self.tokens else 0.0
