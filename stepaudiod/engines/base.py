"""The engine: what the worker asks of anything that makes speech. Knows no queue and no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stepaudiod.speech import SpeechRequest

Waveform = NDArray[np.float32]
"""Mono samples in -1..1, shape `(samples,)`."""

Progress = Callable[[str, float], None]
"""Called while loading with the stage's name and the fraction done, 0..1."""


class Engine(Protocol):
    """Turns requests into audio, one chunk at a time.

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

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        """Say the text, a chunk at a time, the first as early as can be.

        Raises:
            NotFound: the engine has no such voice.
            Unsupported: the engine can't say this.
        """
