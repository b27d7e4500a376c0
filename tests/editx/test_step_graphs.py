"""The flow decoder's steps in graphs, and chunks of several streams in one: on a GPU as they are; elsewhere
what a graph recorded is run again kernel by kernel, into the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.decoder.audio_stream import AudioStream, ChunkDecoder
from stepaudiod.editx.decoder.config import FlowCosts
from stepaudiod.editx.decoder.dit import DiT, KVState, Modulation
from stepaudiod.editx.decoder.flow import Acoustics, Flow, load_flow, make_noise
from stepaudiod.editx.decoder.reference_prefix import ReferencePrefix, prefill
from stepaudiod.editx.decoder.step_graphs import (
    PAST_FRAMES,
    Recorder,
    StepGraphs,
    StepInput,
    round_up,
    slots_beside,
)
from stepaudiod.editx.decoder.streaming import FlowStream
from stepaudiod.editx.decoder.vocoder import Vocoder, load_vocoder, make_source_noise
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.loading import Networks
from stepaudiod.editx.pipeline import Pipeline, PipelineOptions
from stepaudiod.editx.tokenizers.features import HOP
from tests.editx.test_decoder import codes, reference

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
GROUPS = 40

Sound = NDArray[np.float32]


class Again(Recorder):
    """Where the decoder isn't on a GPU."""

    def __init__(self) -> None:
        pass

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        made = run()
        return lambda: made.copy_(run()), made


class Counting(StepGraphs):
    """Notes how many utterances each step was for."""

    def __init__(self, estimator: DiT) -> None:
        super().__init__(estimator, None if estimator.in_proj.weight.is_cuda else Again())
        self.counts: list[int] = []

    def step(
        self, inputs: Sequence[StepInput], modulation: Modulation, slots: int = 1
    ) -> list[tuple[Tensor, KVState]]:
        self.counts.append(len(inputs))
        return super().step(inputs, modulation, slots)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def flow(micro: Checkpoint) -> Flow:
    with torch.inference_mode():
        return load_flow(micro.flow, DEVICE)


@pytest.fixture(scope="module")
def vocoder(micro: Checkpoint) -> Vocoder:
    with torch.inference_mode():
        return load_vocoder(micro.vocoder, DEVICE)


@pytest.fixture
def graphs(flow: Flow) -> Iterator[Counting]:
    flow.graphs = made = Counting(flow.estimator)
    yield made
    flow.graphs = None


def mel(flow: Flow, groups: int) -> Tensor:
    """A stream after a reference of so many groups."""
    voice, columns, noise = reference(groups), to_columns(codes(GROUPS)).to(DEVICE), make_noise(3, 2000)
    stream = FlowStream(flow, noise.to(DEVICE), prefill(flow, voice))
    made, at = [], 0
    for size in (15, 24, 48):
        made.append(stream.decode(columns[at : at + size + 3], is_last=False))
        at += size
    return torch.cat([*made, stream.decode(columns[at:], is_last=True)], dim=1)


@pytest.mark.parametrize("groups", [1, 2, 25, 100])
def test_streams_in_graphs_give_what_kernels_give(flow: Flow, groups: int) -> None:
    """Of a long reference too, which no graph takes in; keys and values are kept in half precision."""
    right = mel(flow, groups)
    flow.graphs = Counting(flow.estimator)
    made = mel(flow, groups)
    flow.graphs = None
    assert (made - right).square().mean().sqrt() < 0.01 * right.std()


def test_streams_in_graphs_share_a_voice_and_nothing_else(flow: Flow, graphs: StepGraphs) -> None:
    voice, noise = reference(25), make_noise(3, 2000).to(DEVICE)
    columns = [to_columns(codes(GROUPS, seed)).to(DEVICE) for seed in range(3)]

    def decode(stream: FlowStream, index: int, chunk: int) -> Tensor:
        return stream.decode(columns[index][15 * chunk : 15 * chunk + 18], is_last=False)

    alone = []
    for index in range(3):
        stream = FlowStream(flow, noise, prefill(flow, voice))
        alone.append([decode(stream, index, chunk) for chunk in range(4)])
    shared = prefill(flow, voice)
    streams = [FlowStream(flow, noise, shared) for _ in range(3)]
    for chunk in range(4):
        for index, stream in enumerate(streams):
            assert torch.equal(decode(stream, index, chunk), alone[index][chunk])


@pytest.mark.skipif(not HAS_GPU, reason="counts a GPU's memory")
def test_a_prefix_is_as_large_as_estimated(flow: Flow, graphs: StepGraphs) -> None:
    voice = reference(100)
    prefill(flow, voice)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    shared = prefill(flow, voice)
    estimated = FlowCosts.of(flow.config, flow.state_dtype.itemsize).prefix_bytes(voice.columns.shape[0])
    after = torch.cuda.memory_stats()["requested_bytes.all.current"]
    assert after - before == pytest.approx(estimated, rel=0.02)
    assert shared.frames == 2 * 297


@pytest.mark.parametrize("before", [0, 1, 96, 294, 390, 700, 900, 1590])
def test_chunks_in_one_graph_fit_the_buffer_of_a_long_reference(before: int) -> None:
    slots = slots_beside(before)
    assert 1 <= slots <= 4
    assert slots * round_up(before) <= PAST_FRAMES
    assert slots == 4 or (slots + 1) * round_up(before) > PAST_FRAMES


# ---- chunks of several streams


def open_stream(
    decoder: ChunkDecoder, voice: Acoustics, prefix: ReferencePrefix | None, seed: int
) -> AudioStream:
    noise, generator = make_noise(seed, 4000).to(DEVICE), torch.Generator().manual_seed(seed)
    prefix = prefix or prefill(decoder.flow, voice)
    return AudioStream(decoder, prefix, noise, lambda n: make_source_noise(n, generator).to(DEVICE))


def play(stream: AudioStream, seed: int, groups: int = GROUPS) -> Iterator[Tensor | None]:
    """A stream's chunks; None where it gives others a turn."""
    for code in codes(groups, seed).tolist():
        if stream.push(code):
            if stream.has_time:
                yield None
            yield stream.take()
    yield stream.finish()


def sound(parts: Iterator[Tensor | None]) -> Tensor:
    return torch.cat([part.cpu() for part in parts if part is not None])


def in_turn(streams: list[Iterator[Tensor | None]]) -> list[Tensor]:
    """Step streams in turn, as the worker does."""
    made: list[list[Tensor]] = [[] for _ in streams]
    running = dict(enumerate(streams))
    while running:
        for index, stream in list(running.items()):
            try:
                part = next(stream)
            except StopIteration:
                del running[index]
                continue
            made[index] += [] if part is None else [part.cpu()]
    return [torch.cat(parts) for parts in made]


@pytest.mark.slow
def test_a_sound_is_the_same_to_the_last_bit_beside_other_streams(
    flow: Flow, vocoder: Vocoder, graphs: Counting
) -> None:
    decoder = ChunkDecoder(flow, vocoder)
    voices = [reference(25), reference(25), reference(25), reference(100), reference(24), reference(1)]
    prompts = [prefill(flow, voice) for voice in voices]

    def stream(index: int) -> Iterator[Tensor | None]:
        return play(open_stream(decoder, voices[index], prompts[index], index), index, GROUPS + index)

    alone = [sound(stream(index)) for index in range(len(voices))]
    assert set(graphs.counts) == {1}
    graphs.counts.clear()
    together = in_turn([stream(index) for index in range(len(voices))])
    assert {3, 4} & set(graphs.counts)
    for made, right in zip(together, alone, strict=True):
        assert torch.equal(made, right)
    assert [len(made) for made in together] == [(GROUPS + index) * 6 * HOP for index in range(len(voices))]
    assert not decoder._waiting


def test_together_is_what_it_is_kernel_by_kernel(flow: Flow, vocoder: Vocoder) -> None:
    decoder, voice = ChunkDecoder(flow, vocoder), reference(25)

    def all_sounds() -> list[Tensor]:
        return in_turn([play(open_stream(decoder, voice, None, seed), seed) for seed in range(3)])

    right = all_sounds()
    flow.graphs = Counting(flow.estimator)
    made = all_sounds()
    flow.graphs = None
    for one, other in zip(made, right, strict=True):
        assert (one - other).square().mean().sqrt() < 0.05 * other.square().mean().sqrt()


def test_a_closed_stream_is_not_decoded_with_the_others(
    flow: Flow, vocoder: Vocoder, graphs: Counting
) -> None:
    decoder, voice = ChunkDecoder(flow, vocoder), reference(25)
    streams = [open_stream(decoder, voice, None, seed) for seed in range(2)]
    parts = [play(stream, seed) for seed, stream in enumerate(streams)]
    for each in parts:
        assert next(each) is not None
        assert next(each) is None  # its second chunk waits
    streams[0].close()
    graphs.counts.clear()
    assert next(parts[1]) is not None
    assert set(graphs.counts) == {1}
    assert not decoder._waiting


def test_an_error_fails_the_chunks_of_its_group_only(flow: Flow, vocoder: Vocoder, graphs: Counting) -> None:
    decoder, voice = ChunkDecoder(flow, vocoder), reference(25)
    right = sound(play(open_stream(decoder, voice, None, 3), 3))
    streams = [open_stream(decoder, voice, None, seed) for seed in range(2)]
    parts = [play(stream, seed) for seed, stream in enumerate(streams)]
    for each in parts:
        next(each)
        next(each)

    noise = streams[1]._vocoder._new_noise

    def fail_once(samples: int) -> Tensor:
        streams[1]._vocoder._new_noise = noise
        raise RuntimeError(f"no {samples}")

    streams[1]._vocoder._new_noise = fail_once
    for each in parts:
        with pytest.raises(RuntimeError, match="no "):
            next(each)
    assert torch.equal(sound(play(open_stream(decoder, voice, None, 3), 3)), right)


@pytest.mark.slow
def test_whole_requests_are_decoded_together_and_sound_as_alone(networks: Networks, voice: Sound) -> None:
    networks.flow.graphs = graphs = Counting(networks.flow.estimator)
    try:
        pipeline = Pipeline(networks, PipelineOptions(is_output_checked=False, rows=4, length=2048))
        known = pipeline.encode_reference(voice, 24000, "Hello there.")

        def say(seed: int) -> Iterator[Tensor | None]:
            spoken = pipeline.clone(known, "Nothing of it is true. " * 3, seed=seed)
            return (torch.from_numpy(part) for part in spoken)

        alone = [sound(say(seed)) for seed in range(4)]
        graphs.counts.clear()
        together = in_turn([say(seed) for seed in range(4)])
        assert max(graphs.counts) > 1
        assert all(torch.equal(made, right) for made, right in zip(together, alone, strict=True))

        leaving = iter(pipeline.clone(known, "Nothing of it is true.", seed=1))
        while not pipeline._synthesizer._chunks._waiting:
            next(leaving)
        leaving.close()  # type: ignore[attr-defined]
        assert not pipeline._synthesizer._chunks._waiting
    finally:
        networks.flow.graphs = None
