"""A GPU failure ends only the worker, since its context never works again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from stepaudiod.counters import Counters
from stepaudiod.engines.registry import HIBARI
from stepaudiod.errors import EngineError, WorkerLost
from stepaudiod.requests import Audio, EngineDescription, SpeechRequest
from stepaudiod.worker.process import Reply, WorkerOptions, WorkerProcess
from tests.activation import DEADLINE_S


def engine(loads: bool) -> EngineDescription:
    return replace(HIBARI, name="lost", factory="tests.lost_gpu:LostGpu", options={"loads": loads})


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerOptions:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    return WorkerOptions(tmp_path, 1, "info", 10.0, 60.0, 60.0)


async def whole(reply: Reply) -> int:
    """Bytes of sound that came."""
    size = 0
    while (item := await reply.next()) is not None:
        size += len(item.data) if isinstance(item, Audio) else 0
    return size


def test_the_next_request_gets_a_new_worker(options: WorkerOptions) -> None:
    async def run() -> None:
        def ask(text: str) -> Reply:
            request = SpeechRequest(text, engine(True).voices[0].id)
            return worker.work(engine(True), request, "pcm", {})

        worker = await WorkerProcess.spawn(options, Counters())
        with pytest.raises(EngineError, match="out of memory"):  # which ends no other request
            await whole(ask("full"))
        assert await whole(ask("Hello.")) > 0
        others, failing = ask("A long story. " * 500), ask("fail")
        with pytest.raises(EngineError, match="illegal memory access"):
            await whole(failing)
        with pytest.raises(WorkerLost):
            await whole(others)
        assert worker.is_lost
        await worker.kill("is gone")

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))


def test_loading_beforehand_fails_like_that_too(options: WorkerOptions) -> None:
    async def run() -> None:
        worker, lost = await WorkerProcess.spawn(options, Counters()), asyncio.Event()
        worker.watch_changes(lambda: lost.set() if worker.is_lost else None)
        worker.load(engine(False))
        await lost.wait()
        await worker.kill("is gone")

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))
