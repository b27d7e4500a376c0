"""Each model of the worker has a thread of its own: none holds up or hides what another one does."""

from __future__ import annotations

import asyncio
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepaudiod.audio.decode import decode
from stepaudiod.counters import Counters
from stepaudiod.engines.base import Clip
from stepaudiod.engines.local_models import LocalEngines
from stepaudiod.engines.registry import HIBARI
from stepaudiod.errors import WorkerLost
from stepaudiod.requests import Recording, Segment, SpeechRequest, TranscriptionRequest
from stepaudiod.worker.job import Recordings
from stepaudiod.worker.loaded import LoadedEngines
from stepaudiod.worker.loop import Loop
from stepaudiod.worker.process import WorkerOptions, WorkerProcess
from stepaudiod.worker.protocol import (
    EngineLoaded,
    EngineOrder,
    EngineWarm,
    JobDone,
    JobFailed,
    Piece,
    StartJob,
    ToFront,
)
from tests.activation import DEADLINE_S
from tests.engines.step_audio import settings, write_data
from tests.worker.engines import LISTENING, SlowVoice

HERE = "tests.worker.engines"


@pytest.mark.parametrize("place", ["load", "speak"])
def test_a_voice_goes_on_while_another_one_loads_or_is_slow(tmp_path: Path, place: str) -> None:
    SlowVoice.waiting.clear()
    SlowVoice.told.clear()
    (model,) = LocalEngines(write_data(tmp_path), settings()).describe()
    frames: queue.SimpleQueue[ToFront] = queue.SimpleQueue()
    engines, recordings = LoadedEngines(tmp_path, 1, frames.put, decode), Recordings()
    slow, voice = EngineOrder("slow", f"{HERE}:SlowVoice", {"place": place}, ()), EngineOrder.of(model)
    loops = {each.name: Loop(each.factory, engines, recordings, frames.put) for each in (slow, voice)}

    def speak(id: int, engine: EngineOrder, text: str) -> None:
        loops[engine.name].put(StartJob(id, engine, SpeechRequest(text, "hum", seed=1), "pcm", {}))

    def until(id: int) -> list[ToFront]:
        """What is sent until a job is done."""
        sent = [frames.get(timeout=DEADLINE_S)]
        while not (isinstance(sent[-1], JobDone) and sent[-1].id == id):
            sent.append(frames.get(timeout=DEADLINE_S))
        return sent

    speak(1, slow, "Wait.")
    assert SlowVoice.waiting.wait(DEADLINE_S)
    speak(2, voice, "Hello there, this is a longer one.")
    sent = until(2)
    heard = [frame for frame in sent if isinstance(frame, Piece)]
    assert len(heard) > 2
    assert {frame.id for frame in heard} == {2}
    while EngineWarm(voice.name) not in sent:  # a processor has nothing to prepare
        sent.append(frames.get(timeout=DEADLINE_S))
    SlowVoice.told.set()
    assert [frame.id for frame in until(1) if isinstance(frame, Piece)] == [1]


def test_a_checkpoint_waits_for_the_step_that_is_being_taken(tmp_path: Path) -> None:
    SlowVoice.waiting.clear()
    SlowVoice.told.clear()
    frames: queue.SimpleQueue[ToFront] = queue.SimpleQueue()
    order = EngineOrder("slow", f"{HERE}:SlowVoice", {"place": "speak"}, ())
    loop = Loop(order.factory, LoadedEngines(tmp_path, 1, frames.put, decode), Recordings(), frames.put)
    loop.put(StartJob(1, order, SpeechRequest("Wait.", ""), "pcm", {}))
    assert SlowVoice.waiting.wait(DEADLINE_S)
    is_held = loop.hold()
    assert not is_held.is_set()
    SlowVoice.told.set()
    assert is_held.wait(DEADLINE_S)


def test_a_full_gpu_is_an_error_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames: queue.SimpleQueue[ToFront] = queue.SimpleQueue()
    order = EngineOrder("full", f"{HERE}:NoRoom", {}, ())
    loop = Loop(order.factory, LoadedEngines(tmp_path, 1, frames.put, decode), Recordings(), frames.put)
    loop.put(StartJob(1, order, SpeechRequest("Hello.", ""), "pcm", {}))
    while not isinstance(failed := frames.get(timeout=DEADLINE_S), JobFailed):
        pass
    assert (failed.id, failed.error) == (1, "GpuFull")
    assert failed.message.startswith("The GPU's memory is full")
    assert [record.message for record in caplog.records] == [failed.message]


def test_two_threads_take_turns_with_one_recogniser(tmp_path: Path) -> None:
    """A transcription, and a voice without a transcript."""
    engines = LoadedEngines(tmp_path, 1, lambda frame: None, decode)
    clip = Clip(np.random.default_rng(1).standard_normal(16000).astype(np.float32), 16000)

    def transcribe(number: int) -> list[str]:
        found = engines.recogniser(LISTENING).transcribe(TranscriptionRequest(Recording("")), clip)
        return [each.text for each in found if isinstance(each, Segment)]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(transcribe, range(4))
    assert len(first) == 50
    assert others == [first] * 3


def test_a_variant_is_replaced_while_it_asks_a_recogniser(tmp_path: Path) -> None:
    told: list[ToFront] = []
    engines = LoadedEngines(tmp_path, 1, told.append, decode)
    one, two = (EngineOrder(f"v{n}", f"{HERE}:Asking", {"variant": n}, ()) for n in (1, 2))
    assert engines.get(one) is not engines.get(two)
    loaded = [frame.engine for frame in told if isinstance(frame, EngineLoaded)]
    assert loaded == ["v1", "listening", "v2"]


def test_a_model_that_hangs_is_found_while_another_one_speaks(tmp_path: Path) -> None:
    hanging = replace(HIBARI, name="slow", factory=f"{HERE}:SlowVoice", options={"place": "speak"})
    text = "This is one more sentence of a long text. " * 2000

    async def listen() -> None:
        options = WorkerOptions(tmp_path, 1, "warning", 2.0, 1.0, DEADLINE_S)
        worker = await WorkerProcess.spawn(options, Counters())
        try:
            live = worker.work(HIBARI, SpeechRequest(text, "heart"), "pcm", {})
            assert await live.next()
            worker.work(hanging, SpeechRequest("Wait.", ""), "pcm", {})
            while await live.next():
                live.credit()
        finally:
            await worker.kill("is told to end")

    with pytest.raises(WorkerLost, match=r"made no progress for 1 s"):
        asyncio.run(asyncio.wait_for(listen(), DEADLINE_S))
