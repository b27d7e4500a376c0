"""The decoder's memory: a prefix is shared, a stream's own state is small, and streams wait for memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudiod.editx.decoder.config import FlowCosts
from stepaudiod.editx.decoder.flow import Acoustics, make_noise
from stepaudiod.editx.decoder.prefix_cache import PrefixCache, Reservation
from stepaudiod.editx.decoder.reference_prefix import ReferencePrefix, prefill
from stepaudiod.editx.decoder.streaming import FlowStream
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.lm.admission import PATIENCE_S
from stepaudiod.editx.loading import Networks
from stepaudiod.editx.pipeline import Pipeline, PipelineOptions, Reference, Synthesis
from stepaudiod.editx.synthesis import stream_frames
from stepaudiod.errors import InvalidRequest
from tests.editx.test_decoder import codes, reference

TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def costs(networks: Networks) -> FlowCosts:
    return FlowCosts.of(networks.flow.config, networks.flow.state_dtype.itemsize)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def other(groups: int, seed: int) -> Acoustics:
    voice = reference(groups)
    return Acoustics(to_columns(codes(groups, seed)), voice.mel, voice.embedding)


def mel_of(stream: FlowStream, groups: int, seed: int) -> Iterator[Tensor]:
    columns = to_columns(codes(groups, seed))
    at = 0
    for size in (15, 24, 48):
        yield stream.decode(columns[at : at + size + 3], is_last=False)
        at += size
    yield stream.decode(columns[at:], is_last=True)


def held_bytes(stream: FlowStream) -> int:
    """What a stream holds of its own, counted tensor by tensor."""
    pasts = [state.past for state in stream._states if state.past is not None]
    own = [tensor for past in pasts for tensor in (past.caches, past.columns)]
    own += stream._encoder_state.caches.values()
    return sum(tensor.untyped_storage().nbytes() for tensor in own)


def prefix_bytes(prompt: ReferencePrefix) -> int:
    tensors = [past.columns for past in prompt.pasts]
    tensors += [past.prompt for past in prompt.pasts if past.prompt is not None]
    tensors += prompt.encoder.caches.values()
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def small_bytes(prompt: ReferencePrefix) -> int:
    """What else a voice holds: a few frames."""
    tensors = [prompt.columns, prompt.condition, prompt.speaker]
    tensors += [x for x in (prompt.encoder.ahead, prompt.encoder.up) if x is not None]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_streams_that_share_a_voice_give_what_each_gives_alone(networks: Networks) -> None:
    voice, noises = reference(8), [make_noise(seed, 600) for seed in range(3)]

    def stream(seed: int, prefix: ReferencePrefix) -> Iterator[Tensor]:
        made = FlowStream(networks.flow, noises[seed], prefix)
        return mel_of(made, 40, seed)

    alone = [torch.cat(list(stream(seed, prefill(networks.flow, voice))), dim=1) for seed in range(3)]
    shared = prefill(networks.flow, voice)
    streams: list[Iterator[Tensor]] = [stream(seed, shared) for seed in range(3)]
    parts: list[list[Tensor]] = [[], [], []]
    for _ in range(4):  # a chunk of each in turn, as one thread serves them
        for seed, running in enumerate(streams):
            parts[seed].append(next(running))
    for seed in range(3):
        assert torch.equal(torch.cat(parts[seed], dim=1), alone[seed])


def test_states_are_as_large_as_estimated(networks: Networks, costs: FlowCosts) -> None:
    for groups in (1, 2, 30):
        voice = reference(groups)
        shared = prefill(networks.flow, voice)
        assert prefix_bytes(shared) == costs.prefix_bytes(voice.columns.shape[0])
        assert small_bytes(shared) < 5000  # and no view of all that was seen
    most = costs.stream_bytes(stream_frames(200))
    held = []
    for groups in (2, 30):
        stream = FlowStream(networks.flow, make_noise(0, 900), prefill(networks.flow, reference(groups)))
        sizes = []
        for _ in mel_of(stream, 40, 0):
            sizes.append(held_bytes(stream))
        assert max(sizes) <= most
        assert max(sizes) > 0.8 * most
        held.append(max(sizes))
    assert held[0] == held[1]  # whatever the reference's length


def test_the_full_size_decoder_takes_what_the_documents_say(costs: FlowCosts) -> None:
    """Ten steps, 16 blocks, 8 heads of 64 in half precision; a token encoder of 6 and 4 layers of 512."""
    full = FlowCosts(
        mel_frame_bytes=10 * 16 * 2 * 2 * 512 * 2,
        frame_bytes=(6 + 2 * 4) * 2 * 512 * 4,
        columns_bytes=10 * 16 * 2 * 2 * 512 * 2 * 4,
    )
    assert full.prefix_bytes(150) == pytest.approx(0.204e9, rel=0.01)
    assert full.stream_bytes(stream_frames(700)) == pytest.approx(0.090e9, rel=0.01)
    assert costs.mel_frame_bytes < full.mel_frame_bytes


def test_a_reference_is_prefilled_once_and_cached(networks: Networks, costs: FlowCosts) -> None:
    memory, voice = PrefixCache(networks.flow), reference(8)
    with memory.reserve(voice, 50) as first, memory.reserve(reference(8), 50) as second:
        made = first.try_take()
        assert made is not None
        assert second.try_take() is made
    assert memory.used_bytes == costs.prefix_bytes(24)
    with memory.reserve(voice, 50) as later:
        assert later.try_take() is made


def test_unused_prefixes_are_bounded_in_bytes(networks: Networks, costs: FlowCosts) -> None:
    one = costs.prefix_bytes(24)
    memory = PrefixCache(networks.flow, kept_bytes=2 * one)
    made = []
    for seed in range(4):
        with memory.reserve(other(8, seed), 50) as reservation:
            made.append(reservation.try_take())
    assert memory.used_bytes == 2 * one
    with memory.reserve(other(8, 3), 50) as reservation:
        assert reservation.try_take() is made[3]
    with memory.reserve(other(8, 0), 50) as reservation:
        assert reservation.try_take() is not made[0]


def test_a_voice_of_any_size_stays_until_another_is_used(networks: Networks) -> None:
    """A text of several sentences takes its voice in once."""
    memory = PrefixCache(networks.flow, kept_bytes=0)
    made = []
    for voice in (other(8, 0), other(8, 0), other(8, 1), other(8, 0)):
        with memory.reserve(voice, 50) as reservation:
            made.append(reservation.try_take())
    assert made[0] is made[1]
    assert made[3] is not made[0]


def budget_for(costs: FlowCosts, streams: int, voices: int = 1) -> int:
    return streams * costs.stream_bytes(50) + voices * costs.prefix_bytes(24)


def test_streams_wait_until_there_is_memory(networks: Networks, costs: FlowCosts) -> None:
    size = budget_for(costs, 2)
    memory = PrefixCache(networks.flow, size)
    with ExitStack() as first, ExitStack() as others:
        reservations = [
            stack.enter_context(memory.reserve(reference(8), 50)) for stack in (first, others, others)
        ]
        assert reservations[0].try_take() is not None
        assert reservations[1].try_take() is not None
        assert memory.used_bytes == size
        assert reservations[2].try_take() is None
        first.close()
        assert reservations[2].try_take() is not None
        assert memory.used_bytes == size


def test_an_unused_prefix_is_evicted_and_one_in_use_is_not(networks: Networks, costs: FlowCosts) -> None:
    memory = PrefixCache(networks.flow, budget_for(costs, 2))
    with memory.reserve(other(8, 1), 50) as reservation:
        assert reservation.try_take() is not None
    with memory.reserve(other(8, 2), 50) as using, memory.reserve(other(8, 3), 50) as waiting:
        assert using.try_take() is not None  # instead of the first prefix
        assert waiting.try_take() is None
        assert memory.used_bytes <= budget_for(costs, 2)


def test_waiters_are_served_in_order_while_they_poll(networks: Networks, costs: FlowCosts) -> None:
    clock = Clock()
    memory = PrefixCache(networks.flow, budget_for(costs, 2), clock=clock)
    with ExitStack() as inside, ExitStack() as waiting:

        def reserve(groups: int) -> Reservation:
            return waiting.enter_context(memory.reserve(other(groups, groups), 50))

        holder = inside.enter_context(memory.reserve(other(8, 8), 50))
        assert holder.try_take() is not None
        large, small = reserve(12), reserve(1)
        assert large.try_take() is None
        assert small.try_take() is None  # there is room, and it isn't its turn
        clock.now_s += 0.9 * PATIENCE_S
        assert small.try_take() is None
        clock.now_s += 0.2 * PATIENCE_S
        assert small.try_take() is not None  # the large one no longer polls
        inside.close()
        small.__exit__(None, None, None)
        assert large.try_take() is not None


def test_a_waiter_that_gives_up_blocks_no_other(networks: Networks, costs: FlowCosts) -> None:
    memory = PrefixCache(networks.flow, budget_for(costs, 1))
    with memory.reserve(reference(8), 50) as holder:
        assert holder.try_take() is not None
        with memory.reserve(reference(8), 50) as gives_up:
            assert gives_up.try_take() is None
            last = memory.reserve(reference(8), 50).__enter__()
            assert last.try_take() is None
    assert last.try_take() is not None
    last.__exit__(None, None, None)
    assert memory.used_bytes == costs.prefix_bytes(24)


def test_more_than_the_whole_budget_is_refused_with_advice(networks: Networks, costs: FlowCosts) -> None:
    memory = PrefixCache(networks.flow, budget_for(costs, 1) - 1)
    with pytest.raises(InvalidRequest, match=r"A recording of 1 s .* raise step_audio\.gpu_memory"):
        memory.reserve(reference(8), 50)


# ---- whole requests


@pytest.fixture
def said(pipeline: Pipeline, voice: NDArray[np.float32]) -> Reference:
    return pipeline.encode_reference(voice, 24000, "the quick brown fox")


def narrow(pipeline: Pipeline, said: Reference) -> Pipeline:
    """The same with memory for one stream."""
    flow = pipeline.networks.flow
    costs = FlowCosts.of(flow.config, flow.state_dtype.itemsize)
    most = frames_of(pipeline, said)
    size = costs.prefix_bytes(said.acoustics.columns.shape[0]) + costs.stream_bytes(most)
    options = PipelineOptions(is_output_checked=False, rows=3, length=2048, decoder_bytes=size)
    return Pipeline(pipeline.networks, options)


def frames_of(pipeline: Pipeline, said: Reference) -> int:
    """The frames that a stream of `TEXT` may have."""
    call = pipeline._clone_call(said, TEXT)
    return stream_frames(call.bounds([]).max_tokens)


def in_turn(results: list[Synthesis]) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Step requests in turn, as the worker does: their sound, and in which step each was first heard."""
    running = {index: iter(result) for index, result in enumerate(results)}
    parts: list[list[NDArray[np.float32]]] = [[] for _ in results]
    first = [-1] * len(results)
    step = 0
    while running:
        step += 1
        for index, iterator in list(running.items()):
            chunk = next(iterator, None)
            if chunk is None:
                del running[index]
                continue
            parts[index].append(chunk)
            if chunk.size and first[index] < 0:
                first[index] = step
    return [np.concatenate(each) for each in parts], first


@pytest.mark.slow
def test_requests_that_wait_for_memory_sound_the_same(pipeline: Pipeline, said: Reference) -> None:
    def requests(pipeline: Pipeline) -> list[Synthesis]:
        return [pipeline.clone(said, TEXT, seed=seed) for seed in range(3)]

    right, at_once = in_turn(requests(pipeline))
    tight = narrow(pipeline, said)
    made, one_by_one = in_turn(requests(tight))
    assert all(np.array_equal(a, b) for a, b in zip(made, right, strict=True))
    assert max(at_once) - min(at_once) < 10
    assert sorted(one_by_one) == one_by_one
    assert max(one_by_one) > max(at_once) + 10


def test_a_request_that_is_closed_gives_its_memory_back(pipeline: Pipeline, said: Reference) -> None:
    tight = narrow(pipeline, said)
    memory = tight._synthesizer._prefixes
    running = iter(tight.clone(said, TEXT, seed=1))
    while not next(running).size:
        pass
    waiting = iter(tight.clone(said, TEXT, seed=2))
    assert not next(waiting).size
    (voice,) = memory._voices.values()
    assert voice.made is not None
    gone = weakref.ref(voice.made)
    running.close()  # type: ignore[attr-defined]
    waiting.close()  # type: ignore[attr-defined]
    left = memory.used_bytes
    assert left == voice.size_bytes
    assert not len(memory._queue)
    memory._voices.clear()
    del voice
    gc.collect()
    assert gone() is None  # no stream that has ended holds it
    assert np.concatenate(list(tight.clone(said, TEXT, seed=3))).size
