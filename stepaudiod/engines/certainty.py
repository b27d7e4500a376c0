"""How sure a recogniser is of what it wrote down. Knows no recogniser.

Mean logarithms of token probabilities, measured with Whisper tiny.en at temperature 0: English sentences have
-0.2 to -0.7, with noise 8 dB below the voice too, and a rare word alone -1.1; Chinese ones -0.95 to -1.3.
Where a word is repeated for 25 s, the first eight tokens have -0.2 to -0.6 in English and -0.4 to -1.3 in
Chinese.
"""

from __future__ import annotations

from collections.abc import Iterable

from stepaudiod.errors import Unsupported
from stepaudiod.speech import Segment

LEAST_LOG_PROBABILITY = -1.0
"""Text less probable than that is tried again. Source: Whisper (arXiv 2212.04356), section 4.5."""
LEAST_TO_KEEP = -0.75
"""Text less probable than that is no transcript of a voice: what is said in that voice depends on it."""
LEAST_OF_ENGLISH = -0.72
"""What a recogniser of English writes down of English is at least so probable,"""
AT_THE_ENDS = -3.0
"""with that much in all for one rare word and for the ends of speech, which weigh in a short recording."""


def is_guess(segments: Iterable[Segment]) -> bool:
    """Whether a transcript is too unsure to be kept as what a recording says."""
    mean = _Mean()
    for segment in segments:
        mean.add(segment.average_logprob, len(segment.tokens))
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

    def add(self, average_logprob: float, tokens: int) -> None:
        """Take what the likeliest text of another window has, before any of it is handed on.

        Raises:
            Unsupported: all windows so far don't sound like English.
        """
        self._mean.add(average_logprob, tokens)
        least = LEAST_OF_ENGLISH + AT_THE_ENDS / self._mean.tokens
        if self._mean.value < least:
            raise Unsupported(
                f"The recording doesn't sound like English, and {self._engine} knows English only: the mean "
                f"log-probability of what it heard is {self._mean.value:.2f}, and English has at least "
                f"{least:.2f}. For other languages fetch a larger Whisper: "
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
