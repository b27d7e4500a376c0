"""A worker that dies of one request: other requests without audio are served by the next worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepaudiod.config import Limits, Timeouts
from stepaudiod.counters import Counters
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.engines.registry import HIBARI, Catalog
from stepaudiod.errors import WorkerLost
from stepaudiod.idle import IdleClock
from stepaudiod.requests import Audio, SpeechRequest
from stepaudiod.worker.process import WorkerOptions, WorkerProcess
from tests.activation import DEADLINE_S

POISON = replace(HIBARI, name="poison", factory="tests.poison:Poison")


Trial = Callable[[Callable[[Dispatcher], Awaitable[None]]], None]


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Run with a dispatcher that has real workers."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    options = WorkerOptions(tmp_path, 1, "info", 10.0, 60.0, 60.0)

    def run(body: Callable[[Dispatcher], Awaitable[None]]) -> None:
        async def whole() -> None:
            def spawn(counters: Counters) -> Awaitable[WorkerProcess]:
                return WorkerProcess.spawn(options, counters)

            service = Dispatcher(
                Limits(), Timeouts(), Catalog((POISON,)), "poison", IdleClock(None, time.monotonic), spawn
            )
            await body(service)
            await service.close()

        asyncio.run(asyncio.wait_for(whole(), DEADLINE_S))

    return run


async def say(service: Dispatcher, text: str, heard: Callable[[], None] = lambda: None) -> int:
    """The bytes of received audio."""
    size = 0
    async for piece in service.run(POISON, SpeechRequest(text, POISON.voices[0].id), "pcm", "id"):
        if isinstance(piece, Audio):
            size += len(piece.data)
            heard()
    return size


async def lose_the_worker(service: Dispatcher) -> None:
    """Kill the worker once it has the request."""
    await asyncio.sleep(0)
    worker = await service._ready_worker()
    assert worker.is_working
    await worker.kill("is ended by a test")


def test_a_request_that_ends_its_worker_twice_costs_no_other(trial: Trial) -> None:
    async def body(service: Dispatcher) -> None:
        texts = ["die", "Hello.", "Good morning.", "Good evening."]
        results = await asyncio.gather(*(say(service, text) for text in texts), return_exceptions=True)
        assert isinstance(results[0], WorkerLost)
        assert "tried twice" in results[0].message
        assert all(isinstance(result, int) and result > 0 for result in results[1:]), results
        assert service.counters.worker_deaths["died"] == 2
        assert (service.active, service.queued) == (0, 0)

    trial(body)


def test_a_request_with_audio_is_not_retried(trial: Trial) -> None:
    async def body(service: Dispatcher) -> None:
        with pytest.raises(WorkerLost):
            await say(service, "die later")
        assert service.counters.worker_deaths["died"] == 1
        assert await say(service, "Hello.") > 0

    trial(body)


def test_a_request_beside_one_tried_alone_waits_for_its_first_sound_only(trial: Trial) -> None:
    async def body(service: Dispatcher) -> None:
        heard = asyncio.Event()
        long = asyncio.create_task(say(service, "A long story. " * 3000, heard.set))
        await lose_the_worker(service)
        assert await say(service, "Hello.") > 0
        assert heard.is_set()
        assert not long.done()
        long.cancel()

    trial(body)


def test_a_request_that_is_closed_while_it_is_tried_alone_holds_up_none(trial: Trial) -> None:
    async def body(service: Dispatcher) -> None:
        first = asyncio.create_task(say(service, "Hello."))
        await lose_the_worker(service)
        second = asyncio.create_task(say(service, "Hello."))
        await asyncio.sleep(0)
        first.cancel()
        assert await second > 0

    trial(body)


def test_a_request_tried_again_does_not_wait_for_a_client_that_stops_reading(trial: Trial) -> None:
    async def body(service: Dispatcher) -> None:
        text = "A long story. " * 60
        unread = service.run(POISON, SpeechRequest(text, POISON.voices[0].id), "pcm", "id")
        first = asyncio.ensure_future(anext(unread))
        second = asyncio.create_task(say(service, "Hello."))
        await lose_the_worker(service)
        third = asyncio.create_task(say(service, "Good morning."))
        pieces = [await first]
        assert await second > 0
        assert await third > 0
        assert service.active == 1
        pieces += [piece async for piece in unread]  # and the first one goes on when its client does
        size = sum(len(piece.data) for piece in pieces if isinstance(piece, Audio))
        assert size == await say(service, text)

    trial(body)
