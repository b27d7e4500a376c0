"""Many requests beside each other, on random weights: which wait, which are served, and what is released."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stepaudiod.editx.codes import GROUP_FRAMES
from stepaudiod.editx.decoder.flow import Acoustics
from stepaudiod.editx.decoder.runner import Chunk, DecoderStream, ReferencePrefix
from stepaudiod.editx.generation import STREAMED_FRAMES
from stepaudiod.editx.lm.runner import Sequence
from stepaudiod.editx.pipeline import Pipeline, PipelineOptions, Reference, Synthesis
from stepaudiod.editx.scheduler import Scheduler
from stepaudiod.editx.tokenizers.features import HOP
from stepaudiod.errors import InvalidRequest

TEXT = "The quick brown fox jumps over the lazy dog."
OPTIONS = PipelineOptions(is_output_checked=False, rows=3, length=2048, forced_seconds=2.4)


@pytest.fixture
def reference(pipeline: Pipeline, voice: NDArray[np.float32]) -> Reference:
    return pipeline.encode_reference(voice, 24000, "the quick brown fox")


@pytest.fixture
def make(pipeline: Pipeline) -> Callable[..., Pipeline]:
    """A pipeline of the same networks; its arguments replace options."""
    return lambda **changes: Pipeline(pipeline.networks, replace(OPTIONS, **changes))


def in_turn(results: list[Synthesis]) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Read each result as its chunks come: their sounds, and the order in which they were first heard."""
    parts: list[list[NDArray[np.float32]]] = [[] for _ in results]
    running, heard = list(range(len(results))), list[int]()
    while running:
        for index in list(running):
            if not results[index].is_ready:
                continue
            chunk = next(results[index], None)
            if chunk is None:
                running.remove(index)
                continue
            parts[index].append(chunk)
            if index not in heard:
                heard.append(index)
        if running and not any(results[index].is_ready for index in running):
            scheduler = results[0]._scheduler
            if not scheduler.step():
                scheduler.lanes.wait(30)
    return [np.concatenate(each) for each in parts], heard


def test_a_sound_is_the_same_beside_others(make: Callable[..., Pipeline], reference: Reference) -> None:
    texts = [TEXT, "Short.", TEXT * 2, TEXT, "It is true, and so on."]
    alone = [make().clone(reference, text, seed=seed).waveform() for seed, text in enumerate(texts)]
    pipeline = make()
    together, _ = in_turn([pipeline.clone(reference, text, seed=seed) for seed, text in enumerate(texts)])
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_chunks_that_a_call_leaves_out_are_decoded_later(
    make: Callable[..., Pipeline], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [make().clone(reference, TEXT, seed=seed).waveform() for seed in range(3)]
    pipeline = make()
    decoder, sizes = pipeline.scheduler._decoder, list[int]()
    decode = decoder.decode

    def decode_first(chunks: list[Chunk]) -> list[NDArray[np.float32]]:
        sizes.append(len(chunks))
        return decode(chunks[:1])

    monkeypatch.setattr(decoder, "slots", 3, raising=False)
    monkeypatch.setattr(decoder, "decode", decode_first)
    together, _ = in_turn([pipeline.clone(reference, TEXT, seed=seed) for seed in range(3)])
    assert max(sizes) > 1
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_equal_prompts_of_whole_pages_are_read_before_they_are_used(
    make: Callable[..., Pipeline], reference: Reference
) -> None:
    pipeline, size = make(), make().scheduler._language_model.pages.size

    def is_whole(said: str) -> bool:
        return len(pipeline._writer.clone(reference.ids, said, TEXT)) % size == 1

    voice = replace(reference, transcript=next(said for n in range(size) if is_whole(said := "o" * n)))
    alone = [make().clone(voice, TEXT, seed=seed).waveform() for seed in (1, 2)]
    first = pipeline.clone(reference, TEXT, seed=3)
    first.start()
    pipeline.scheduler.step()  # its prompt is being read: then those that were read go on
    results = [pipeline.clone(voice, TEXT, seed=seed) for seed in (1, 2)]
    together, _ = in_turn([first, *results])
    assert all(np.array_equal(a, b) for a, b in zip(alone, together[1:], strict=True))


def test_the_first_chunk_is_short_and_later_ones_grow(
    make: Callable[..., Pipeline], reference: Reference
) -> None:
    chunks = list(make(forced_seconds=7.2).clone(reference, TEXT, seed=1))
    frames = [chunk.size / (2 * HOP) for chunk in chunks]
    assert frames[0] < STREAMED_FRAMES[0]  # a few frames are held back
    assert frames[1:4] == list(STREAMED_FRAMES[1:4])
    assert sum(frames) == 7.2 * 25
    whole = list(make(forced_seconds=7.2).clone(reference, TEXT, seed=1, is_streamed=False))
    assert len(whole) < len(chunks)
    assert sum(chunk.size for chunk in whole) == sum(chunk.size for chunk in chunks)


def test_requests_wait_for_a_row_in_order(make: Callable[..., Pipeline], reference: Reference) -> None:
    pipeline = make(rows=1)
    results = [pipeline.clone(reference, TEXT, seed=seed) for seed in range(3)]
    sounds, heard = in_turn(results)
    assert heard == [0, 1, 2]
    assert all(sound.size for sound in sounds)


def test_requests_wait_for_the_decoders_memory_and_sound_the_same(
    make: Callable[..., Pipeline], reference: Reference
) -> None:
    pipeline = make()
    right, _ = in_turn([pipeline.clone(reference, TEXT, seed=seed) for seed in range(3)])
    costs = pipeline.scheduler._decoder.costs
    frames = round(2.4 / 0.12) * GROUP_FRAMES + 3
    size = costs.prefix_bytes(reference.acoustics.columns.shape[0]) + costs.stream_bytes(frames)
    tight = make(decoder_bytes=size)
    made, heard = in_turn([tight.clone(reference, TEXT, seed=seed) for seed in range(3)])
    assert heard == [0, 1, 2]
    assert all(np.array_equal(a, b) for a, b in zip(made, right, strict=True))
    with pytest.raises(InvalidRequest, match=r"step_audio\.gpu_memory"):
        list(make(decoder_bytes=size - 1).clone(reference, TEXT, seed=1))


def test_a_prompt_that_can_never_fit_is_refused_at_once(
    make: Callable[..., Pipeline], reference: Reference
) -> None:
    pipeline = make(length=len(reference.ids))
    result = pipeline.clone(reference, TEXT, seed=1)
    assert result.is_ready
    with pytest.raises(InvalidRequest, match="shorten it"):
        next(result)


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_request_that_is_closed_leaves_everything(
    make: Callable[..., Pipeline], reference: Reference, chunks: int
) -> None:
    pipeline = make(rows=2)
    right = pipeline.clone(reference, TEXT, seed=7).waveform()
    closed, other, waiting = (pipeline.clone(reference, TEXT, seed=seed) for seed in (6, 7, 8))
    for result in (closed, other, waiting):
        result.start()
    for _ in range(chunks):
        next(closed)
    closed.close()
    waiting.close()
    assert np.array_equal(other.waveform(), right)
    run(scheduler := pipeline.scheduler)
    assert scheduler._memory._streams_bytes == 0
    (voice,) = scheduler._memory._voices.values()
    gone = weakref.ref(voice.prefix)
    scheduler._memory._voices.clear()
    del voice, closed, other, waiting, result
    gc.collect()
    assert gone() is None  # no stream that has ended holds it


def run(scheduler: Scheduler) -> None:
    while scheduler.is_working:
        if not scheduler.step():
            scheduler.lanes.wait(30)


def test_recordings_of_requests_that_were_closed_are_not_encoded(
    make: Callable[..., Pipeline], reference: Reference
) -> None:
    scheduler, encoded = (pipeline := make()).scheduler, list[int]()

    def encode(number: int) -> Reference:
        encoded.append(number)
        return reference

    results = [pipeline.clone(partial(encode, number), TEXT, seed=1) for number in range(4)]
    for result in results:
        result.start()
    for result in results[:3]:
        result.close()
    assert results[3].waveform().size
    run(scheduler)
    assert encoded == [3]


def test_a_voice_whose_listener_leaves_while_it_is_computed_is_computed_once(
    make: Callable[..., Pipeline], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = (pipeline := make()).scheduler
    prefill, begun, may_go_on = scheduler._decoder.prefill, threading.Event(), threading.Event()
    computed = list[Acoustics]()

    def watched(acoustics: Acoustics) -> ReferencePrefix:
        computed.append(acoustics)
        begun.set()
        assert may_go_on.wait(30)
        return prefill(acoustics)

    monkeypatch.setattr(scheduler._decoder, "prefill", watched)
    own = ThreadPoolExecutor(1)  # as on a GPU
    monkeypatch.setattr(scheduler.lanes.decoder, "_thread", own)
    left, stays = (pipeline.clone(reference, TEXT, seed=seed) for seed in (1, 2))
    left.start()
    while not begun.is_set():
        scheduler.step()
        begun.wait(0.01)
    left.close()
    while not scheduler.lanes.language_model.is_free:
        scheduler.lanes.wait(30)
        scheduler.step()
    assert scheduler._memory.used_bytes  # the lane still fills it
    may_go_on.set()
    assert stays.waveform().size
    run(scheduler)
    own.shutdown()
    assert len(computed) == 1
    assert scheduler._memory._streams_bytes == 0


def test_an_error_ends_only_the_requests_that_it_meets(
    make: Callable[..., Pipeline], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make()
    right = pipeline.clone(reference, TEXT, seed=2).waveform()
    decoder = pipeline.scheduler._decoder
    decode, streams = decoder.decode, list[object]()

    def fail(chunks: list[Chunk]) -> list[NDArray[np.float32]]:
        streams.extend(chunk.stream for chunk in chunks if chunk.stream not in streams)
        if chunks[0].stream is streams[0]:
            raise MemoryError("no memory")
        return decode(chunks)

    monkeypatch.setattr(decoder, "decode", fail)
    failing, other = (pipeline.clone(reference, TEXT, seed=seed) for seed in (1, 2))
    failing.start()
    assert np.array_equal(other.waveform(), right)
    with pytest.raises(MemoryError):
        next(failing)
    monkeypatch.undo()
    assert np.array_equal(pipeline.clone(reference, TEXT, seed=2).waveform(), right)


def test_a_stream_for_which_a_gpu_has_no_memory_waits_for_others(
    make: Callable[..., Pipeline], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [TEXT, "Short.", TEXT * 2]
    right = [make().clone(reference, text, seed=seed).waveform() for seed, text in enumerate(texts)]
    pipeline = make()
    scheduler, open_stream = pipeline.scheduler, pipeline.scheduler._decoder.open

    def open_alone(prefix: ReferencePrefix, seed: int, frames: int) -> DecoderStream:
        if any(each.stream for each in scheduler._admitted):
            raise torch.OutOfMemoryError("other processes fill the card")
        return open_stream(prefix, seed, frames)

    monkeypatch.setattr(scheduler._decoder, "open", open_alone)
    made, _ = in_turn([pipeline.clone(reference, text, seed=seed) for seed, text in enumerate(texts)])
    assert all(np.array_equal(a, b) for a, b in zip(made, right, strict=True))


def test_unused_voices_leave_a_gpu_that_has_no_memory_and_then_the_request_fails(
    make: Callable[..., Pipeline],
    reference: Reference,
    voice: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = make()
    other = pipeline.encode_reference(voice[::-1].copy(), 24000, "the quick brown fox")
    assert pipeline.clone(other, TEXT, seed=1).waveform().size
    memory, prefill = pipeline.scheduler._memory, pipeline.scheduler._decoder.prefill
    most = 1

    def prefill_few(acoustics: Acoustics) -> ReferencePrefix:
        if len(memory._voices) > most:
            raise torch.OutOfMemoryError("other processes fill the card")
        return prefill(acoustics)

    monkeypatch.setattr(pipeline.scheduler._decoder, "prefill", prefill_few)
    made, _ = in_turn([pipeline.clone(reference, TEXT, seed=seed) for seed in (1, 2)])
    assert all(sound.size for sound in made)
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        pipeline.clone(other, TEXT, seed=1).waveform()
    most = 1
    assert pipeline.clone(other, TEXT, seed=1).waveform().size


def test_a_failed_decode_step_ends_no_request_that_is_not_in_it(
    make: Callable[..., Pipeline], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = make().clone(reference, TEXT, seed=2).waveform()
    scheduler = (pipeline := make()).scheduler
    begun, may_fail = threading.Event(), threading.Event()

    def fail(sequences: list[Sequence]) -> None:
        begun.set()
        assert may_fail.wait(30)
        raise MemoryError("no memory")

    failing, other = (pipeline.clone(reference, TEXT, seed=seed) for seed in (1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(scheduler._language_model, "decode", fail)
        failing.start()
        while not begun.is_set():
            scheduler.step()
            begun.wait(0.01)
        other.start()
        scheduler.step()
        assert len(scheduler._admitted) == 2
    may_fail.set()
    assert np.array_equal(other.waveform(), right)
    with pytest.raises(MemoryError):
        next(failing)
    run(scheduler)
    assert not scheduler._admitted


def test_a_long_text_that_is_not_read_stops_making_sound(
    make: Callable[..., Pipeline], reference: Reference
) -> None:
    pipeline = make(forced_seconds=4.8)
    slow = pipeline.clone(reference, "A sentence of some words. " * 20, seed=1)
    next(slow)
    for seed in range(3):
        pipeline.clone(reference, TEXT, seed=seed).waveform()
    assert not pipeline.scheduler._admitted  # it holds no row while it waits for its reader
    made = slow.stats.output_tokens
    assert made < 15 / 0.12 * 5
    rest = slow.waveform()
    assert slow.stats.output_tokens > made
    assert rest.size


def test_no_graph_is_captured_while_a_request_waits_for_its_first_sound(
    make: Callable[..., Pipeline], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = (pipeline := make(rows=1)).scheduler
    captured = list[bool]()
    first, second = (pipeline.clone(reference, TEXT, seed=seed) for seed in (1, 2))

    def capture() -> bool:
        captured.append(bool(second._chunks))
        return len(captured) < 9

    for runner in (scheduler._language_model, scheduler._decoder):
        monkeypatch.setattr(runner, "capture_next", capture)
    first.start()
    second.start()  # waits behind the first
    first.waveform()
    run(scheduler)
    while not all(lane.is_free for lane in scheduler.lanes._all):
        scheduler.lanes.wait(30)
        scheduler.step()
    assert len(captured) >= 9
    assert all(captured)
