"""A recording of any length, given to a recogniser that hears 30 s at a time.

    recording   ─────speech──speech─────────speech────speech───────────
    windows         [             ]         [              ]              cut where nobody speaks

What nobody speaks in is never given to the recogniser, which would make words up. Knows no recogniser.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from stepaudiod.audio.resample import Resampler
from stepaudiod.audio.types import SPEECH_RATE, Waveform
from stepaudiod.audio.vad import FRAME, FRAME_S, Gate, SpeechDetector
from stepaudiod.engines.base import Clip
from stepaudiod.requests import Facts, Segment

Hear = Callable[[Waveform], Generator[Facts, None, list[Segment]]]
"""Writes down at most `WINDOW_S` of speech at 16 kHz, in several steps; times count from its beginning."""

WINDOW_S = 30
WINDOW = int(WINDOW_S / FRAME_S)
"""The most that is heard at once, in frames of 32 ms, as everything below."""

FIRST_WINDOW = WINDOW // 3
"""The first of several windows is short, so that the first words come early."""

LEAD, TAIL = 7, 10
"""What is heard before and after speech."""

MARGIN = 2
"""How far a segment's times reach beyond the speech in it."""

LOOK = 160
"""How far is looked for speech in a step: a third of a second of work."""

LEFT_OVER = 32
"""So much speech behind the last word that was heard makes the recogniser listen to it again."""

WORKING = Facts({})
"""Says that the work goes on; there is nothing to tell yet."""


class SpeechMap:
    """Where somebody speaks in a recording, found as far as is asked.

    Args:
        audio: 16 kHz.
    """

    def __init__(self, audio: Waveform) -> None:
        self.frames = -(-len(audio) // FRAME)
        self._audio = np.pad(audio, (0, -len(audio) % FRAME))
        self._detect = SpeechDetector()
        self._gate = Gate()
        self._probabilities: list[float] = []
        self._speech: list[bool] = []

    def look(self, until: int) -> Iterator[Facts]:
        """Find out up to a frame, a little in each step."""
        until = min(until, self.frames)
        while (start := len(self._speech)) < until:
            probabilities = self._detect.push(self._audio[start * FRAME : min(start + LOOK, until) * FRAME])
            self._probabilities += probabilities
            self._speech += [self._gate(probability) for probability in probabilities]
            yield WORKING

    def first(self, start: int, end: int) -> int | None:
        """The first frame of speech in a stretch that has been looked at."""
        return next((frame for frame in range(start, min(end, self.frames)) if self._speech[frame]), None)

    def last(self, start: int, end: int) -> int:
        """The last frame of speech before `end`; `start` where there is none."""
        return next((frame for frame in range(end - 1, start, -1) if self._speech[frame]), start)

    def narrow(self, start: int, end: int) -> tuple[int, int] | None:
        """A stretch without the silence at its ends; None where nobody speaks."""
        if (first := self.first(start, end)) is None:
            return None
        return max(start, first - MARGIN), min(end, self.last(first, min(end, self.frames)) + 1 + MARGIN)

    def count(self, start: int, end: int) -> int:
        """How many frames of a stretch are speech."""
        return sum(self._speech[start:end])

    def cut(self, begin: int, limit: int) -> int:
        """Where a window of at most `limit` ends best: in its longest late pause, or where it is quietest."""
        if limit >= self.frames:
            return self.frames
        early = begin + (limit - begin) * 2 // 3
        pauses = _runs(self._speech[early:limit])
        if pauses:
            start, length = max(pauses, key=lambda pause: (pause[1], pause[0]))
            return early + start + length // 2
        return early + int(np.argmin(self._probabilities[early:limit]))


def _runs(speech: Sequence[bool]) -> list[tuple[int, int]]:
    """The stretches where nobody speaks: where each begins, and its length."""
    edges = np.flatnonzero(np.diff(np.array([True, *speech, True]).astype(np.int8)))
    return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]


def resample_clip(clip: Clip) -> Iterator[Waveform]:
    """The recording at 16 kHz, a minute in each step."""
    if clip.sample_rate == SPEECH_RATE:
        yield clip.waveform
        return
    resampler = Resampler(clip.sample_rate, SPEECH_RATE)
    size = 60 * clip.sample_rate
    for start in range(0, len(clip.waveform), size):
        yield resampler(clip.waveform[start : start + size])
    if clip.waveform.size:
        yield resampler(None)


def listen(clip: Clip, hear: Hear) -> Iterator[Segment | Facts]:
    """Give a recording to a recogniser, window by window.

    Args:
        clip: of any rate and length.
        hear: the recogniser.

    Returns:
        Segments with times of the recording, in order, each with some speech in it.
    """
    parts = []
    for part in resample_clip(clip):
        parts.append(part)
        yield WORKING
    audio = np.concatenate([np.zeros(0, np.float32), *parts])
    speech = SpeechMap(audio)
    position, window = 0, FIRST_WINDOW if speech.frames > WINDOW else WINDOW
    while position < speech.frames:
        yield from speech.look(position + LOOK)
        begin = speech.first(position, position + LOOK)
        if begin is None:
            position += LOOK
            continue
        begin = max(position, begin - LEAD)
        yield from speech.look(begin + window)
        cut = speech.cut(begin, begin + window)
        end = min(cut, speech.last(begin, cut) + 1 + TAIL)
        heard = yield from hear(audio[begin * FRAME : end * FRAME])
        until = begin + round(heard[-1].end_s / FRAME_S) if heard else begin
        if heard and until > begin + LEFT_OVER and speech.count(until, cut) >= LEFT_OVER:
            cut = until
        for segment in heard:
            if (spoken := speech.narrow(*_frames(segment, begin))) is not None:
                yield _place(segment, begin * FRAME_S, spoken, clip.duration_s)
        yield WORKING
        position, window = cut, WINDOW


def _frames(segment: Segment, begin: int) -> tuple[int, int]:
    return begin + int(segment.start_s / FRAME_S), begin + int(segment.end_s / FRAME_S) + 1


def _place(segment: Segment, by_s: float, spoken: tuple[int, int], length_s: float) -> Segment:
    """The segment in the recording's own time, without silence at its ends, and its words inside it."""
    start = max(segment.start_s + by_s, spoken[0] * FRAME_S)
    end = min(segment.end_s + by_s, spoken[1] * FRAME_S, length_s)
    words, reached = [], start
    for word in segment.words:
        word_start = min(max(word.start_s + by_s, reached), end)
        reached = min(max(word.end_s + by_s, word_start), end)
        words.append(word._replace(start_s=round(word_start, 3), end_s=round(reached, 3)))
    return segment._replace(start_s=round(start, 3), end_s=round(end, 3), words=tuple(words))
