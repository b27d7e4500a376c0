"""Engines that stop on the way, or notice how they are used. Light, since a worker imports this module."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stepaudiod.audio.types import Waveform
from stepaudiod.engines.base import Clip, Progress, Recognisers
from stepaudiod.requests import Segment, SpeechRequest, TranscriptionRequest

DEADLINE_S = 60.0
LISTENING: dict[str, Any] = {
    "name": "listening",
    "factory": f"{__name__}:Listening",
    "options": {},
    "files": [],
}
"""The order of a recogniser."""


class SlowVoice:
    """Waits in one place, `load` or `speak`, until it is told to go on."""

    sample_rate = 24_000
    waiting, told = threading.Event(), threading.Event()

    def __init__(self, *, cache_dir: Path, threads: int, place: str) -> None:
        self._place = place

    def load(self, progress: Progress) -> None:
        self._be("load")

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        self._be("speak")
        yield np.zeros(2400, np.float32)

    def _be(self, place: str) -> None:
        if place == self._place:
            self.waiting.set()
            assert self.told.wait(DEADLINE_S)


class NoRoom:
    """Finds its GPU full."""

    sample_rate = 24_000

    def __init__(self, *, cache_dir: Path, threads: int) -> None:
        pass

    def load(self, progress: Progress) -> None:
        pass

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


class Asking:
    """Batches requests, and still asks a recogniser when it is to be replaced."""

    sample_rate = 24_000
    is_working = is_warm = False
    decode: object = None
    engines: Recognisers

    def __init__(self, *, cache_dir: Path, threads: int, variant: int) -> None:
        self._has_asked = False

    def load(self, progress: Progress) -> None:
        pass

    def attach(self, on_change: Callable[[], None]) -> None:
        pass

    def step(self) -> int:
        return 0

    def settle(self) -> None:
        if not self._has_asked:
            self._has_asked = True
            asking = threading.Thread(target=self.engines.recogniser, args=(LISTENING,))
            asking.start()
            asking.join(DEADLINE_S)
            assert not asking.is_alive()

    close = settle


class Listening:
    """A recogniser that notices when two threads use it at once."""

    sample_rate = 16_000
    used: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *, cache_dir: Path, threads: int) -> None:
        pass

    def load(self, progress: Progress) -> None:
        pass

    def transcribe(self, request: TranscriptionRequest, clip: Clip) -> Iterator[Segment]:
        for number in range(50):
            assert self.used.acquire(blocking=False), "two threads use it"
            text = "-".join(map(str, np.argsort(clip.waveform)[:3]))
            self.used.release()
            yield Segment(text, number, number + 1)
