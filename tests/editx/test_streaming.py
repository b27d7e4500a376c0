"""Streams on the decoder's published widths: long voices, and inaudible crossfades between chunks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.decoder.eager import EagerDecoder
from stepaudiod.editx.decoder.flow import Flow, load_flow
from stepaudiod.editx.decoder.runner import mel_noise, source_noise
from stepaudiod.editx.decoder.streaming import FADE_FRAMES, FlowStream, VocoderStream, sine_fade
from stepaudiod.editx.decoder.vocoder import Vocoder, build_vocoder, read_vocoder
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.tokenizers.features import HOP
from tests.editx.test_decoder import codes, reference, sound
from tests.parity.streaming import ReferenceVocoderStream
from tests.parity.whole import whole_mel, whole_sound

CPU = torch.device("cpu")
LONG = 209
"""Groups of a voice of 25 s; the reference's buffers end at 16 s."""
FADE = FADE_FRAMES * HOP


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def flow(tiny: Checkpoint) -> Flow:
    with torch.inference_mode():
        return load_flow(tiny.flow, CPU)


@pytest.fixture(scope="module")
def vocoder(tiny: Checkpoint) -> Vocoder:
    with torch.inference_mode():
        return build_vocoder(read_vocoder(tiny.vocoder), tiny.vocoder, CPU)


@pytest.fixture(scope="module")
def mel(flow: Flow) -> Tensor:
    with torch.inference_mode():
        return whole_mel(flow, to_columns(codes(67)), reference(10), mel_noise(0, 0, 600, CPU))


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1])


@pytest.mark.slow
def test_a_voice_of_25_seconds_streams_and_is_nearly_the_whole(flow: Flow, vocoder: Vocoder) -> None:
    """A frame sees the chunks before it and none later, so a stream can't equal the whole to the last bit."""
    eager, voice, groups = EagerDecoder(flow, vocoder), reference(LONG), 25
    prompt = eager.prefill(voice)
    samples = sound(eager, eager.open(prompt, 3, 3 * groups + 3), groups)
    assert samples.shape[0] == groups * 6 * HOP
    assert np.isfinite(samples).all()

    columns, noise = to_columns(codes(groups)), mel_noise(3, 0, 1600, CPU)
    stream = FlowStream(flow, prompt, lambda first, n: noise[:, first : first + n])
    chunks = [stream.decode(columns[:18], is_last=False), stream.decode(columns[15:42], is_last=False)]
    streamed = torch.cat([*chunks, stream.decode(columns[39:], is_last=True)], dim=1)
    whole = whole_mel(flow, columns, voice, noise)
    assert streamed.shape == whole.shape
    assert correlation(streamed, whole) > 0.99


@pytest.mark.parametrize("samples", [1, 2, 479, FADE])
def test_a_cross_fade_sums_to_one_everywhere(samples: int) -> None:
    rising, falling = sine_fade(samples)
    assert rising.shape == falling.shape == (samples,)
    assert (rising + falling - 1).abs().max() < 1e-6
    assert (rising - falling.flip(0)).abs().max() < 1e-6
    assert (rising.diff() > 0).all()
    assert rising[0] < 0.51


def test_the_references_cross_fade_is_too_loud(vocoder: Vocoder) -> None:
    """What ours is held against: its halves sum to 1.08, which a steady sound shows."""
    levels = {}
    for kind in (VocoderStream, ReferenceVocoderStream):
        stream = kind(vocoder, lambda first, n: torch.zeros(n, 9))
        stream._tail = torch.ones(8 * HOP)
        levels[kind] = float(stream._joined(torch.ones(9 * HOP)).max())
    assert levels[VocoderStream] == pytest.approx(1, abs=1e-6)
    assert levels[ReferenceVocoderStream] == pytest.approx(1.08, abs=1e-3)


def streamed(vocoder: Vocoder, mel: Tensor, noise: Tensor, sizes: list[int]) -> tuple[Tensor, list[int]]:
    """Vocode in chunks: the sound, and where each chunk but the first begins in it."""
    stream = VocoderStream(vocoder, lambda first, n: noise[first : first + n])
    pieces = torch.split(mel, sizes, dim=1)
    parts = [stream.decode(piece, index + 1 == len(sizes)) for index, piece in enumerate(pieces)]
    return torch.cat(parts), torch.tensor([part.shape[0] for part in parts]).cumsum(0)[:-1].tolist()


def steps(sound: Tensor, at: int) -> float:
    """The sharpest bend of a waveform around a crossfade."""
    part = sound[at - 24 : at + FADE + 24]
    return float((part[2:] - 2 * part[1:-1] + part[:-2]).abs().max())


def flux(sound: Tensor, at: int) -> float:
    """The most that a short spectrum changes from one frame to the next around a crossfade."""
    part = sound[at - 512 : at + FADE + 512]
    spectra = torch.stft(part, 512, 120, window=torch.hann_window(512), return_complex=True).abs()
    return float((spectra[:, 1:] - spectra[:, :-1]).square().sum(0).sqrt().max())


def test_crossfades_are_no_louder_and_no_sharper_than_the_sound_itself(vocoder: Vocoder, mel: Tensor) -> None:
    frames = mel.shape[1]
    sizes = [30, 48] + [32] * ((frames - 98) // 32)
    sizes.append(frames - sum(sizes))
    noise = source_noise(1, 0, frames * HOP, CPU)
    whole = whole_sound(vocoder, mel, noise)
    sound, joints = streamed(vocoder, mel, noise, sizes)
    assert len(joints) >= 9
    elsewhere = range(1000, sound.shape[0] - 2 * FADE, FADE)
    for measure in (steps, flux):
        there = [measure(sound, at) for at in joints]
        # what the sound does there anyway, made in one go
        anyway = [measure(whole, at) for at in joints]
        assert all(a < 1.15 * b for a, b in zip(there, anyway, strict=True)), (measure, there, anyway)
        usual = sorted(measure(sound, at) for at in elsewhere)
        assert sorted(there)[len(there) // 2] <= usual[len(usual) * 3 // 4]
        assert max(there) <= max(usual[-1], *anyway)
    # a chunk differs a little from what one go makes; where it begins, that difference must not jump
    change = (sound - whole).diff().abs()
    jumps = sorted(float(change[at - 1] / change[at - 60 : at + 60].median()) for at in joints)
    assert jumps[len(jumps) // 2] < 4
    assert jumps[-1] < 10
    for at in joints:
        error, loud = ((x[at : at + FADE].square().mean().sqrt()) for x in (sound - whole, whole))
        assert error < 0.08 * loud  # 22 dB below
