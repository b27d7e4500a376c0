"""The flow decoder, the vocoder, and their streams."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from stepaudiod.editx.decoder.audio_stream import AudioStream, ChunkDecoder
from stepaudiod.editx.decoder.flow import Acoustics, align_mel, make_noise
from stepaudiod.editx.decoder.reference_prefix import prefill
from stepaudiod.editx.decoder.source import HARMONICS, HarmonicSource, advance
from stepaudiod.editx.decoder.streaming import FlowStream, VocoderStream
from stepaudiod.editx.decoder.vocoder import make_source_noise
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.loading import Networks
from stepaudiod.editx.tokenizers.features import HOP
from tests.parity.whole import reference_source, whole_mel, whole_sound


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


def stream(networks: Networks, groups: int = 5) -> AudioStream:
    generator = torch.Generator().manual_seed(1)
    prefix = prefill(networks.flow, reference(groups))
    decoder = ChunkDecoder(networks.flow, networks.vocoder)
    return AudioStream(decoder, prefix, make_noise(0, 4000), lambda n: make_source_noise(n, generator))


@pytest.mark.parametrize("count", [1, 5, 6, 30, 31, 75, 160, 400])
def test_a_stream_gives_every_sample(networks: Networks, count: int) -> None:
    source, parts = stream(networks), []
    for code in codes(-(-count // 5))[:count].tolist():
        parts += [source.take()] if source.push(code) else []
    parts.append(source.finish())
    samples = torch.cat(parts)
    assert samples.shape[0] == -(-count // 5) * 6 * HOP
    assert torch.isfinite(samples).all()


def test_the_first_sound_comes_after_30_codes(networks: Networks) -> None:
    source = stream(networks)
    came = []
    for count, code in enumerate(codes(40).tolist(), 1):
        if source.push(code):
            came.append(count)
            assert source.take().shape[0] > 0
    assert came == [30, 70, 150]


def test_references_over_16_seconds_stream(networks: Networks) -> None:
    source = stream(networks, groups=170)
    assert any(source.push(code) and source.take().shape[0] > 0 for code in codes(8).tolist())
    assert source.finish().shape[0] > 0


def test_a_streamed_vocoder_is_the_whole_one(networks: Networks) -> None:
    mel = torch.randn(80, 120, generator=torch.Generator().manual_seed(2)) - 3
    noise = make_source_noise(120 * HOP, torch.Generator().manual_seed(4))
    whole = whole_sound(networks.vocoder, mel, noise)
    taken = iter(torch.split(noise, [30 * HOP, 40 * HOP, 50 * HOP]))
    source = VocoderStream(networks.vocoder, lambda _: next(taken))
    parts = torch.split(mel, [30, 40, 50], dim=1)
    made = torch.cat([source.decode(part, index == 2) for index, part in enumerate(parts)])
    assert (made - whole).square().mean().sqrt() < 0.02 * whole.square().mean().sqrt()


def test_one_chunk_of_everything_is_nearly_the_whole(networks: Networks) -> None:
    """A stream's prompt can't see what follows it, and so only the frames after it are alike."""
    columns, acoustics, noise = to_columns(codes(12)), reference(5), make_noise(3, 400)
    source = FlowStream(networks.flow, noise, prefill(networks.flow, acoustics))
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
