"""A recording of any length in windows of 30 s for a recogniser.

    recording   ─────speech──speech─────────speech────speech───────────
    windows         [             ]         [              ]              cut in pauses

Parts without speech are never given to the recogniser, which would invent words. Independent of recognisers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from stepaudiod.audio.resample import Resampler
from stepaudiod.audio.types import SPEECH_RATE, Waveform
from stepaudiod.audio.vad import FRAME, FRAME_S, Gate, SpeechDetector
from stepaudiod.engines.base import Clip
from stepaudiod.requests import Facts, Segment

TranscribeWindow = Callable[[Waveform], Generator[Facts, None, list[Segment]]]
"""Transcribes at most `WINDOW_S` of speech at 16 kHz, in several steps; times are relative to its
beginning."""

WINDOW_S = 30
WINDOW = int(WINDOW_S / FRAME_S)
"""The longest window, in frames of 32 ms, as everything below."""

FIRST_WINDOW = WINDOW // 3
"""The first of several windows is shorter, so that the first words come early."""

LEAD, TAIL = 7, 10
"""Frames of a window before and after speech."""

MARGIN = 2
"""Frames that a segment may extend beyond its speech."""

DETECTED = 160
"""Frames in which speech is detected per step: a third of a second of work."""

UNTRANSCRIBED = 32
"""Frames of speech after the last word that are transcribed again."""

WORKING = Facts({})
"""Reports progress without a result."""


class SpeechMap:
    """The speech in a recording at 16 kHz, detected as far as needed."""

    def __init__(self, audio: Waveform) -> None:
        self.frames = -(-len(audio) // FRAME)
        self._audio = np.pad(audio, (0, -len(audio) % FRAME))
        self._detector = SpeechDetector()
        self._gate = Gate()
        self._probabilities: list[float] = []
        self._speech: list[bool] = []

    def detect(self, until: int) -> Iterator[Facts]:
        """Detect speech up to a frame, in short steps."""
        until = min(until, self.frames)
        while (start := len(self._speech)) < until:
            probabilities = self._detector.push(
                self._audio[start * FRAME : min(start + DETECTED, until) * FRAME]
            )
            self._probabilities += probabilities
            self._speech += [self._gate(probability) for probability in probabilities]
            yield WORKING

    def first(self, start: int, end: int) -> int | None:
        """The first frame of speech in a range."""
        return next((frame for frame in range(start, min(end, self.frames)) if self._speech[frame]), None)

    def last(self, start: int, end: int) -> int:
        """The last frame of speech before `end`; `start` if there is none."""
        return next((frame for frame in range(end - 1, start, -1) if self._speech[frame]), start)

    def narrow(self, start: int, end: int) -> tuple[int, int] | None:
        """A range without the silence at its ends; None if there is no speech."""
        if (first := self.first(start, end)) is None:
            return None
        return max(start, first - MARGIN), min(end, self.last(first, min(end, self.frames)) + 1 + MARGIN)

    def count(self, start: int, end: int) -> int:
        return sum(self._speech[start:end])

    def cut(self, begin: int, limit: int) -> int:
        """The best end of a window: its longest late pause before `limit`, or the least likely speech."""
        if limit >= self.frames:
            return self.frames
        early = begin + (limit - begin) * 2 // 3
        pauses = _runs(self._speech[early:limit])
        if pauses:
            start, length = max(pauses, key=lambda pause: (pause[1], pause[0]))
            return early + start + length // 2
        return early + int(np.argmin(self._probabilities[early:limit]))


def _runs(speech: Sequence[bool]) -> list[tuple[int, int]]:
    """The pauses: the beginning and the length of each."""
    edges = np.flatnonzero(np.diff(np.array([True, *speech, True]).astype(np.int8)))
    return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]


def resample_clip(clip: Clip) -> Iterator[Waveform]:
    """The recording at 16 kHz, a minute per step."""
    if clip.sample_rate == SPEECH_RATE:
        yield clip.waveform
        return
    resampler = Resampler(clip.sample_rate, SPEECH_RATE)
    size = 60 * clip.sample_rate
    for start in range(0, len(clip.waveform), size):
        yield resampler(clip.waveform[start : start + size])
    if clip.waveform.size:
        yield resampler(None)


def transcribe_windows(clip: Clip, transcribe: TranscribeWindow) -> Iterator[Segment | Facts]:
    """Transcribe a recording of any rate and length window by window.

    Returns:
        Segments with times in the recording, in order, each with some speech.
    """
    parts = []
    for part in resample_clip(clip):
        parts.append(part)
        yield WORKING
    audio = np.concatenate([np.zeros(0, np.float32), *parts])
    speech = SpeechMap(audio)
    position, window = 0, FIRST_WINDOW if speech.frames > WINDOW else WINDOW
    while position < speech.frames:
        yield from speech.detect(position + DETECTED)
        begin = speech.first(position, position + DETECTED)
        if begin is None:
            position += DETECTED
            continue
        begin = max(position, begin - LEAD)
        yield from speech.detect(begin + window)
        cut = speech.cut(begin, begin + window)
        end = min(cut, speech.last(begin, cut) + 1 + TAIL)
        found = yield from transcribe(audio[begin * FRAME : end * FRAME])
        until = begin + round(found[-1].end_s / FRAME_S) if found else begin
        if found and until > begin + UNTRANSCRIBED and speech.count(until, cut) >= UNTRANSCRIBED:
            cut = until
        for segment in found:
            if (spoken := speech.narrow(*_frames(segment, begin))) is not None:
                yield _timed(segment, begin * FRAME_S, spoken, clip.duration_s)
        yield WORKING
        position, window = cut, WINDOW


def _frames(segment: Segment, begin: int) -> tuple[int, int]:
    return begin + int(segment.start_s / FRAME_S), begin + int(segment.end_s / FRAME_S) + 1


def _timed(segment: Segment, by_s: float, spoken: tuple[int, int], length_s: float) -> Segment:
    """The segment with times in the recording, without silence at its ends, and its words within."""
    start = max(segment.start_s + by_s, spoken[0] * FRAME_S)
    end = min(segment.end_s + by_s, spoken[1] * FRAME_S, length_s)
    words, reached = [], start
    for word in segment.words:
        word_start = min(max(word.start_s + by_s, reached), end)
        reached = min(max(word.end_s + by_s, word_start), end)
        words.append(word._replace(start_s=round(word_start, 3), end_s=round(reached, 3)))
    return segment._replace(start_s=round(start, 3), end_s=round(end, 3), words=tuple(words))
