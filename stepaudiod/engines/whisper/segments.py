"""The meaning of Whisper's tokens: segments between timestamps, words with times, repetitive text."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stepaudiod.engines.whisper.bpe import Spelling
from stepaudiod.engines.whisper.certainty import LEAST_LOG_PROBABILITY
from stepaudiod.requests import Segment, Word

TIMESTAMP_S = 0.02
"""Step of the timestamps."""

MOST_COMPRESSIBLE = 2.4
"""Text that compresses better than this is repetitive. Source: Whisper (arXiv 2212.04356), section 4.5."""

NO_SPEECH = 0.6
"""Uncertain text in a window that is more likely without speech than this is invented."""


class Attempt(NamedTuple):
    """The parameters of decoding a window.

    At temperature 0 the likeliest tokens are taken. No run of `no_repeat` tokens occurs twice; 0 for no
    limit.
    """

    temperature: float
    no_repeat: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A decoded window: its tokens, timestamps included, and the mean logarithm of their probabilities."""

    ids: tuple[int, ...]
    average_logprob: float
    no_speech_probability: float

    @property
    def is_guess(self) -> bool:
        return self.average_logprob < LEAST_LOG_PROBABILITY

    @property
    def is_made_up(self) -> bool:
        """Whether it is uncertain because there is no speech."""
        return self.is_guess and self.no_speech_probability > NO_SPEECH

    def segment(self, text: str, span: TimestampSpan, words: tuple[Word, ...]) -> Segment:
        return Segment(
            text=text,
            start_s=span.start_s,
            end_s=span.end_s,
            words=words,
            tokens=span.ids,
            average_logprob=self.average_logprob,
            no_speech_probability=self.no_speech_probability,
        )


def attempts(temperature: float) -> list[Attempt]:
    """Parameters to try in turn until a text is neither repetitive nor uncertain; the last can't repeat."""
    later = (Attempt(0.4, 0), Attempt(0.8, 5))
    return [Attempt(temperature, 0), *(attempt for attempt in later if attempt.temperature > temperature)]


@dataclass(frozen=True, slots=True)
class TimestampSpan:
    """The tokens of text between two timestamps, in seconds from the window's beginning.

    `first` is the index of the first of them among all of the window's tokens.
    """

    start_s: float
    end_s: float
    first: int
    ids: tuple[int, ...]


def timestamp_spans(
    ids: Sequence[int], end_of_text: int, first_timestamp: int, length_s: float
) -> Iterator[TimestampSpan]:
    """Split a window's tokens at its timestamps; a last span without one ends with the window.

    Tokens below `end_of_text` are text; `first_timestamp` is that of 0 s.
    """
    start_s, first = 0.0, 0
    text: list[int] = []
    for index, token in enumerate(ids):
        if token >= first_timestamp:
            time_s = min((token - first_timestamp) * TIMESTAMP_S, length_s)
            if text:
                yield TimestampSpan(start_s, max(start_s, time_s), first, tuple(text))
                text = []
            start_s = time_s
        elif token < end_of_text:
            first = first if text else index
            text.append(token)
    if text:
        yield TimestampSpan(start_s, length_s, first, tuple(text))


def is_repetitive(text: str) -> bool:
    """Whether a text repeats itself, by its compression."""
    data = text.encode("utf-8", "replace")
    return len(data) > MOST_COMPRESSIBLE * len(zlib.compress(data))


def timed_words(
    tokens: Sequence[str], edges_s: Sequence[float], spelling: Spelling, language: str
) -> tuple[Word, ...]:
    """Words with times.

    `edges_s` has the beginning of each token, and the end of the last: one more than there are tokens.
    """
    words, at = [], 0
    for text, count in spelling.words(tokens, language):
        if text:
            words.append(Word(text, float(edges_s[at]), float(edges_s[at + count])))
        at += count
    return tuple(words)
