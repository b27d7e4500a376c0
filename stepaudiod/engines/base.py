"""The engine: what the worker asks of anything that makes or understands speech. Knows no queue, no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stepaudiod.requests import EditRequest, Facts, Segment, SpeechRequest, TranscriptionRequest

Waveform = NDArray[np.float32]
"""Mono samples in -1..1, shape `(samples,)`. An empty one says that the work goes on and has no sound yet."""

NO_SOUND: Waveform = np.zeros(0, np.float32)
"""A step without sound."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording, decoded.

    Attributes:
        waveform: its samples.
        sample_rate: Hz.
    """

    waveform: Waveform
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """Its length."""
        return len(self.waveform) / self.sample_rate


Decode = Callable[[Path], tuple[Waveform, int]]
"""Reads a recording: samples and rate, as `audio.decode.decode` gives them."""

Progress = Callable[[str, float], None]
"""Called while loading with the stage, for people, and the fraction done, 0..1."""


class Engine(Protocol):
    """What every engine has; `Speaking`, `Cloning`, `Editing` and `Transcribing` say what it may do beside.

    The worker calls everything from one thread, and steps the iterators of several requests in turn: an
    iterator keeps its request's state to itself, and each step is short (a sentence, not a text).
    Closing an iterator ends its request.
    """

    sample_rate: int
    """Hz of every chunk."""

    def load(self, progress: Progress) -> None:
        """Read what the engine needs into memory.

        Raises:
            EngineUnavailable: a package or a weight file is missing.
        """


class Reading(Engine, Protocol):
    """Reads recordings of its own, as those of the voice library."""

    decode: Decode
    """The worker sets it: recordings are decoded in a process that may die of one."""


class Speaking(Engine, Protocol):
    """Turns text into audio."""

    def speak(self, request: SpeechRequest) -> Iterator[Waveform | Facts]:
        """Say the text, a chunk at a time, the first as early as can be.

        Raises:
            NotFound: the engine has no such voice.
            Unsupported: the engine can't say this.
        """


class Cloning(Engine, Protocol):
    """Turns text into audio in the voice of a recording."""

    def clone(self, request: SpeechRequest, reference: Clip) -> Iterator[Waveform | Facts]:
        """Say the text, a chunk at a time, the first as early as can be.

        Args:
            request: what to say; its `reference` has the transcript.
            reference: the recording, decoded.

        Raises:
            InvalidRequest: the recording doesn't serve.
            Unsupported: the engine can't say this.
        """


class Editing(Engine, Protocol):
    """Changes recordings."""

    def edit(self, request: EditRequest, clip: Clip) -> Iterator[Waveform | Facts]:
        """Change a recording, a chunk at a time.

        Args:
            request: what to change.
            clip: the recording, decoded.

        Raises:
            InvalidRequest: the recording or what it says doesn't serve.
            Unsupported: the engine has no such edit.
        """


class Transcribing(Engine, Protocol):
    """Writes down what recordings say."""

    def transcribe(self, request: TranscriptionRequest, clip: Clip) -> Iterator[Segment | Facts]:
        """Write a recording down, a segment at a time; `Facts` tell its `language`.

        Args:
            request: in which language, with which hints.
            clip: the recording, decoded.

        Raises:
            Unsupported: the engine doesn't know the language.
        """
