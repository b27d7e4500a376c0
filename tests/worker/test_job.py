"""What a request leaves when it ends."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from stepaudiod.audio.encode import make_encoder
from stepaudiod.audio.types import Waveform
from stepaudiod.requests import Audio, SpeechRequest
from stepaudiod.worker.job import Job, Recordings
from stepaudiod.worker.protocol import EngineOrder, StartJob


class Silence:
    sample_rate = 24_000

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        while True:
            yield np.zeros(self.sample_rate, np.float32)


@pytest.fixture
def without_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac"])
def test_a_request_that_is_cancelled_leaves_no_threads(format: str, without_collection: None) -> None:
    make_encoder(format, Silence.sample_rate).finish()  # what its libraries start once
    before = set(os.listdir("/proc/self/task"))
    order = StartJob(1, EngineOrder("silence", "", {}, ()), SpeechRequest("", ""), format, {})
    job = Job(order, lambda _: cast("Any", Silence()), Recordings(), lambda: None)
    while not isinstance(next(job.results), Audio):
        pass
    job.close()
    del job
    assert set(os.listdir("/proc/self/task")) <= before
