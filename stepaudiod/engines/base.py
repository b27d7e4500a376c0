"""The interfaces of engines, as the worker uses them. Independent of the queue and of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stepaudiod.audio.types import Waveform as Waveform
from stepaudiod.requests import EditRequest, Facts, Segment, SpeechRequest, TranscriptionRequest

NO_SOUND: Waveform = np.zeros(0, np.float32)
"""The result of a step that made progress and no sound."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded recording; the sample rate is in Hz."""

    waveform: Waveform
    sample_rate: int

    @property
    def duration_s(self) -> float:
        return len(self.waveform) / self.sample_rate


Decode = Callable[[Path], tuple[Waveform, int]]
"""Decodes a recording to samples and their rate, as `audio.decode.decode` does."""

Progress = Callable[[str, float], None]
"""Called while loading with the stage, for users, and the fraction done, 0..1."""


class Engine(Protocol):
    """The common part; `Speaking`, `Cloning`, `Editing` and `Transcribing` are optional abilities.

    The worker calls everything from one thread, a recogniser also from others, one at a time. It steps the
    iterators of several requests in turn: an iterator holds all state of its request, and each step is short
    (a sentence, not a text). Closing an iterator ends its request. An iterator with an attribute `is_ready`
    is stepped only while that is true.
    """

    sample_rate: int
    """Hz of every chunk."""

    def load(self, progress: Progress) -> None:
        """Load packages and weights.

        Raises:
            EngineUnavailable: a package or a weight file is missing.
        """


class Batching(Engine, Protocol):
    """Advances all of its requests together, in threads of its own; its iterators have `is_ready`."""

    @property
    def is_working(self) -> bool:
        """Whether any request is still to be advanced."""

    @property
    def is_warm(self) -> bool:
        """Whether nothing is left to prepare after the first request; the status says so in `warm`."""

    def attach(self, on_change: Callable[[], None]) -> None:
        """Have a function called, from another thread, whenever `step` has something to do."""

    def step(self) -> int:
        """Collect what has been done and start what comes next, without waiting.

        Returns the number of tasks that have ended.
        """

    def settle(self) -> None:
        """Wait for what is running, before a checkpoint; `step` starts more."""

    def close(self) -> None:
        """Wait for all that uses its memory, before it is freed."""


class Reading(Engine, Protocol):
    """Reads recordings of its own, as those of the voice library. The worker sets the attributes."""

    decode: Decode
    """Runs in a process of its own, which a recording may crash."""
    engines: Recognisers | None


class Speaking(Engine, Protocol):
    def speak(self, request: SpeechRequest) -> Iterator[Waveform | Facts]:
        """Speak the text, in chunks, the first as early as possible.

        Raises:
            NotFound: the engine has no such voice.
            Unsupported: the engine can't say this.
        """


class Cloning(Engine, Protocol):
    def clone(self, request: SpeechRequest, reference: Clip) -> Iterator[Waveform | Facts]:
        """Speak the text in the reference's voice, in chunks, the first as early as possible.

        Raises:
            InvalidRequest: the recording can't be used.
            Unsupported: the engine can't say this.
        """


class Editing(Engine, Protocol):
    def edit(self, request: EditRequest, clip: Clip) -> Iterator[Waveform | Facts]:
        """Change a recording, in chunks.

        Raises:
            InvalidRequest: the recording or its transcript can't be used.
            Unsupported: the engine has no such edit.
        """


class Transcribing(Engine, Protocol):
    def transcribe(self, request: TranscriptionRequest, clip: Clip) -> Iterator[Segment | Facts]:
        """Transcribe a recording, segment by segment; `Facts` contain its `language`.

        Raises:
            Unsupported: the engine doesn't support the language.
        """


class Recognisers(Protocol):
    """The worker's engines, of which one transcribes recordings for others.

    An order has `name`, `factory`, `options` and `files`.
    """

    def recogniser(self, order: dict[str, Any]) -> Transcribing:
        """The engine, loaded at its first use.

        Raises:
            StepaudiodError: it can't be loaded.
        """

    def is_loaded(self, order: dict[str, Any]) -> bool:
        """Whether it is in memory."""

    def run_on_cpu(self, order: dict[str, Any], is_on_cpu: bool) -> None:
        """Choose whether it will be loaded to the CPU, whatever device its options name."""
