"""The flow decoder, the vocoder, and their streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.codes import GROUP
from stepaudiod.editx.decoder.config import LOOKAHEAD, LOOKAHEAD_CODES, FlowCosts
from stepaudiod.editx.decoder.eager import EagerDecoder
from stepaudiod.editx.decoder.flow import Acoustics, align_mel
from stepaudiod.editx.decoder.reference_prefix import prefill
from stepaudiod.editx.decoder.runner import Chunk, DecoderRunner, DecoderStream, mel_noise, source_noise
from stepaudiod.editx.decoder.source import HARMONICS, HarmonicSource, advance
from stepaudiod.editx.decoder.streaming import FlowStream, VocoderStream
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.loading import Networks
from stepaudiod.editx.tokenizers.features import HOP
from tests.parity.whole import reference_source, whole_mel, whole_sound

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.inference_mode():
        yield


def codes(groups: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    linguistic = torch.randint(0, 1024, (groups, 2), generator=generator)
    return torch.cat((linguistic, torch.randint(1024, 5120, (groups, 3), generator=generator)), 1).flatten()


def reference(groups: int) -> Acoustics:
    generator = torch.Generator().manual_seed(9)
    mel = torch.randn(6 * groups, 80, generator=generator) - 4
    return Acoustics(to_columns(codes(groups, 9)), mel, torch.randn(192, generator=generator))


def chunks(stream: DecoderStream, groups: int, seed: int = 0) -> Iterator[Chunk]:
    """A stream's chunks of 2, 4, 8 … groups, and the rest."""
    ids, size = codes(groups, seed).tolist(), 2 * GROUP
    while len(ids) > size + LOOKAHEAD_CODES:
        yield Chunk(stream, ids[: size + LOOKAHEAD_CODES], is_last=False)
        ids, size = ids[size:], 2 * size
    yield Chunk(stream, ids, is_last=True)


def sound(runner: DecoderRunner, stream: DecoderStream, groups: int, seed: int = 0) -> Waveform:
    return np.concatenate([part for chunk in chunks(stream, groups, seed) for part in runner.decode([chunk])])


@pytest.fixture
def eager(networks: Networks) -> EagerDecoder:
    return EagerDecoder(networks.flow, networks.vocoder)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 15, 80])
@pytest.mark.parametrize("voice", [1, 8])
def test_a_stream_gives_every_sample(eager: EagerDecoder, groups: int, voice: int) -> None:
    stream = eager.open(eager.prefill(reference(voice)), 1, 3 * groups + LOOKAHEAD)
    samples = sound(eager, stream, groups)
    assert samples.shape == (groups * 6 * HOP,)
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()


def test_the_sound_that_was_held_back_comes_last(eager: EagerDecoder) -> None:
    stream = eager.open(eager.prefill(reference(4)), 1, 100)
    ids = codes(5).tolist()
    (first,) = eager.decode([Chunk(stream, ids, is_last=False)])
    (last,) = eager.decode([Chunk(stream, [], is_last=True)])
    assert 0 < last.shape[0] < first.shape[0]
    assert first.shape[0] + last.shape[0] == 4 * 6 * HOP
    silent = eager.open(eager.prefill(reference(4)), 1, 100)
    assert eager.decode([Chunk(silent, [], is_last=True)])[0].shape == (0,)


def test_references_over_16_seconds_stream(eager: EagerDecoder) -> None:
    stream = eager.open(eager.prefill(reference(170)), 1, 100)
    assert sound(eager, stream, 2).shape == (2 * 6 * HOP,)


def test_streams_of_a_voice_sound_as_each_alone(eager: EagerDecoder) -> None:
    alone = [sound(eager, eager.open(eager.prefill(reference(8)), seed, 200), 20, seed) for seed in range(3)]
    shared = eager.prefill(reference(8))
    turns = [chunks(eager.open(shared, seed, 200), 20, seed) for seed in range(3)]
    together: list[list[Waveform]] = [[], [], []]
    for chunk in zip(*turns, strict=True):
        for parts, made in zip(together, eager.decode(chunk), strict=True):
            parts.append(made)
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(np.concatenate(one), other)


def test_a_chunk_that_failed_can_be_decoded_again(eager: EagerDecoder, networks: Networks) -> None:
    prefix = eager.prefill(reference(8))
    right = sound(eager, eager.open(prefix, 1, 200), 20)
    stream, parts = eager.open(prefix, 1, 200), []

    def fail(*_: object) -> None:
        raise MemoryError

    for chunk in chunks(stream, 20):
        failing = networks.vocoder.conv_post.register_forward_pre_hook(fail)
        with pytest.raises(MemoryError):
            eager.decode([chunk])
        failing.remove()
        parts += eager.decode([chunk])
    assert np.array_equal(np.concatenate(parts), right)


def held_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_states_are_as_large_as_estimated(eager: EagerDecoder) -> None:
    for groups in (1, 2, 30):
        prefix = eager.prefill(reference(groups))
        large = [x for past in prefix.pasts for x in (past.columns, past.prompt) if x is not None]
        assert held_bytes([*large, *prefix.encoder.caches.values()]) == eager.costs.prefix_bytes(3 * groups)
    frames = 3 * 40 + LOOKAHEAD
    stream = eager.open(prefix, 1, frames)
    *most, _ = chunks(stream, 40)
    for chunk in most:
        eager.decode([chunk])
        state = stream.flow
        pasts = [each.past for each in state._states if each.past is not None]
        own = [x for past in pasts for x in (past.caches, past.columns)]
        assert held_bytes([*own, *state._encoder_state.caches.values()]) <= eager.costs.stream_bytes(frames)


def test_a_longer_reference_fits_into_more(eager: EagerDecoder) -> None:
    costs: FlowCosts = eager.costs
    for frames in (3, 4, 30, 750):
        size = costs.prefix_bytes(frames)
        assert costs.prefix_bytes(costs.frames_in(size)) <= size or frames == LOOKAHEAD


def test_a_streamed_vocoder_is_the_whole_one(networks: Networks) -> None:
    mel = torch.randn(80, 120, generator=torch.Generator().manual_seed(2)) - 3
    noise = source_noise(4, 0, 120 * HOP, CPU)
    whole = whole_sound(networks.vocoder, mel, noise)
    source = VocoderStream(networks.vocoder, lambda first, n: noise[first : first + n])
    parts = torch.split(mel, [30, 40, 50], dim=1)
    made = torch.cat([source.decode(part, index == 2) for index, part in enumerate(parts)])
    assert (made - whole).square().mean().sqrt() < 0.02 * whole.square().mean().sqrt()


def test_one_chunk_of_everything_is_nearly_the_whole(networks: Networks) -> None:
    """A stream's prompt can't see what follows it, and so only the frames after it are alike."""
    columns, acoustics, noise = to_columns(codes(12)), reference(5), mel_noise(3, 0, 400, CPU)
    prefix = prefill(networks.flow, acoustics)
    source = FlowStream(networks.flow, prefix, lambda first, n: noise[:, first : first + n])
    streamed = source.decode(columns, is_last=True)
    whole = whole_mel(networks.flow, columns, acoustics, noise)
    assert streamed.shape == whole.shape
    assert torch.corrcoef(torch.stack((streamed.flatten(), whole.flatten())))[0, 1] > 0.9


def test_a_mel_is_stretched_to_its_codes() -> None:
    mel = torch.arange(3.0)[:, None].expand(3, 80)
    assert align_mel(mel, 6)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert align_mel(mel, 2)[:, 0].tolist() == [0, 1]


def test_a_source_goes_on_where_it_left_off(networks: Networks) -> None:
    source, pitch = networks.vocoder.m_source, 100 + 20 * torch.rand(40)
    noise = torch.zeros(40 * HOP, HARMONICS)
    whole = source(pitch, noise)
    turns = advance(torch.zeros(HARMONICS, dtype=torch.float64), pitch[:25])
    later = source(pitch[25:], noise[25 * HOP :], turns=turns)
    assert (later - whole[25 * HOP :]).abs().max() < 1e-4


def test_exact_phases_keep_their_place_in_long_sounds() -> None:
    source = HarmonicSource()
    torch.nn.init.ones_(source.l_linear.weight)
    torch.nn.init.zeros_(source.l_linear.bias)
    pitch, silence = torch.full((3000,), 220.1), torch.zeros(3000 * HOP, HARMONICS)
    right = source(pitch.double(), silence).double()[-20 * HOP : -HOP]
    errors = [
        float((excite(pitch, silence).double()[-20 * HOP : -HOP] - right).abs().max())
        for excite in (source, partial(reference_source, source))
    ]
    assert errors[0] < 0.01 < errors[1]
