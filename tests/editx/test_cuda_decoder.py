"""The decoder's kernels and runner: on a GPU, or slowly in Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_CODES
from stepaudiod.editx.decoder.config import LOOKAHEAD, STATE_BYTES
from stepaudiod.editx.decoder.eager import EagerDecoder, EagerStream
from stepaudiod.editx.decoder.flow import load_flow
from stepaudiod.editx.decoder.runner import Chunk, DecoderRunner
from stepaudiod.editx.decoder.source import VOICED_HZ
from stepaudiod.editx.decoder.vocoder import Vocoder, build_vocoder, read_vocoder
from stepaudiod.editx.tokenizers.features import HOP
from stepaudiod.errors import InvalidRequest
from tests.editx.test_decoder import chunks, codes, reference, sound

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA build")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if IS_INTERPRETED:
    from tests.editx.interpreted import allow_computed_ranges

    allow_computed_ranges()
elif not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from stepaudiod.editx.decoder.cuda_runner import CudaDecoder, graph_size  # noqa: E402 (after the check for Triton)
from stepaudiod.editx.decoder.cuda_state import CudaStream, State  # noqa: E402
from stepaudiod.editx.decoder.cuda_vocoder import _transposed  # noqa: E402
from stepaudiod.editx.decoder.products import Act, Mask, Weights, multiply  # noqa: E402

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cpu" if IS_INTERPRETED else "cuda")
DTYPE = torch.float32 if IS_INTERPRETED else torch.float16
TOLERANCE = 1e-4 if IS_INTERPRETED else 2e-3


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # what kernels are compared with
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def eager(micro: Checkpoint) -> EagerDecoder:
    with torch.inference_mode():
        return EagerDecoder(load_flow(micro.flow, DEVICE), calm_vocoder(micro))


@pytest.fixture(scope="module")
def cuda(micro: Checkpoint) -> CudaDecoder:
    with torch.inference_mode():
        return CudaDecoder(load_flow(micro.flow, DEVICE), calm_vocoder(micro), DTYPE)


def calm_vocoder(checkpoint: Checkpoint) -> Vocoder:
    """Its pitch moves little around the lowest that has a voice.

    Pitches add up to phases: with large ones, what half precision makes of them would hide other differences.
    """
    vocoder = build_vocoder(read_vocoder(checkpoint.vocoder), checkpoint.vocoder, DEVICE)
    classifier = vocoder.f0_predictor.classifier
    classifier.weight.mul_(0.01)
    classifier.bias.fill_(VOICED_HZ + 1)
    return vocoder


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def near(made: Tensor, right: Tensor) -> bool:
    return bool((made.float() - right).abs().max() < TOLERANCE * right.abs().max())


def difference(made: Waveform, right: Waveform) -> float:
    return float(np.sqrt(np.square(made - right).mean() / np.square(right).mean()))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (7, 1, 5), (6, 3, 1)])
def test_a_convolution_is_a_product_of_rows(kernel: int, stride: int, dilation: int) -> None:
    conv = nn.Conv1d(48, 40, kernel, stride, dilation * (kernel // 2), dilation, device=DEVICE)
    x = draw(90, 48)
    right = F.elu(conv(x.T)).T
    y = torch.empty(right.shape, device=DEVICE)
    multiply(
        x.to(DTYPE), Weights.of(DTYPE, conv), y, stride=stride, dilation=dilation,
        offset=dilation * (kernel // 2), act=Act.ELU,
    )  # fmt: skip
    assert near(y, right)


@pytest.mark.parametrize(("kernel", "step"), [(16, 8), (11, 5), (7, 3)])
def test_a_transposed_convolution_is_a_product_of_rows(kernel: int, step: int) -> None:
    padding = (kernel - step) // 2
    conv = nn.ConvTranspose1d(32, 24, kernel, step, padding, device=DEVICE)
    x = draw(20, 32)
    y = torch.empty(21, step * 24, device=DEVICE)
    multiply(x.to(DTYPE), _transposed(conv, step, DTYPE), y, dilation=-1)
    assert near(y.view(-1, 24)[padding : padding + 20 * step], conv(x.T).T)


def test_a_product_is_bent_added_and_masked() -> None:
    linear, x, before, alpha = (
        nn.Linear(32, 24, device=DEVICE),
        draw(12, 32),
        draw(12, 24),
        draw(24).abs() + 0.3,
    )
    times = torch.tensor([0, 1, -1, 0, 1, -1, -1], device=DEVICE)  # two rows a frame, and one more
    y, copy = before.clone(), torch.empty(12, 24, device=DEVICE, dtype=DTYPE)
    weights = Weights.of(DTYPE, linear)
    multiply(x.to(DTYPE), weights, y, added=y, copy=copy, alpha=alpha, mask=Mask(times, 2, 1))
    right = before + linear(x)
    assert near(y, right)
    is_real = torch.tensor([1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0], device=DEVICE)[:, None]
    assert near(copy, (right + (right * alpha).sin().square() / alpha) * is_real)


def test_streams_sound_as_they_do_kernel_by_kernel(eager: EagerDecoder, cuda: CudaDecoder) -> None:
    """Of voices of several lengths, one of which is too short to be prefilled."""
    groups = 3 if IS_INTERPRETED else 6
    for voice in (4,) if IS_INTERPRETED else (1, 4, 100):
        runners: tuple[DecoderRunner, ...] = eager, cuda
        exact, stream = (
            runner.open(runner.prefill(reference(voice)), 7, 3 * groups + LOOKAHEAD) for runner in runners
        )
        assert isinstance(exact, EagerStream)
        assert isinstance(stream, CudaStream)
        right, made = sound(eager, exact, groups, seed=voice), sound(cuda, stream, groups, seed=voice)
        assert made.shape == right.shape == (groups * 6 * HOP,)
        assert difference(made, right) < 5 * TOLERANCE
        newest = exact.vocoder._mel.T  # of which the logarithms of amplitudes are about 1.7 from zero
        assert (stream.mel[: stream.seen] - newest).square().mean().sqrt() < TOLERANCE


def test_a_sound_is_the_same_beside_others(cuda: CudaDecoder) -> None:
    groups = (2, 1) if IS_INTERPRETED else (40, 3, 1, 21, 14, 40, 9)
    prefixes = [cuda.prefill(reference(1 + 3 * index)) for index in range(len(groups))]

    def open_all() -> list[Iterator[Chunk]]:
        return [
            chunks(cuda.open(prefix, seed, 3 * count + LOOKAHEAD), count, seed)
            for seed, (prefix, count) in enumerate(zip(prefixes, groups, strict=True))
        ]

    alone = [np.concatenate([cuda.decode([chunk])[0] for chunk in stream]) for stream in open_all()]
    together: list[list[Waveform]] = [[] for _ in groups]
    streams = dict(enumerate(open_all()))
    while streams:
        given = {index: next(stream, None) for index, stream in streams.items()}
        call = {index: chunk for index, chunk in given.items() if chunk is not None}
        streams = {index: streams[index] for index in call}
        for index, part in zip(call, decode_all(cuda, list(call.values())), strict=True):
            together[index].append(part)
    for parts, right in zip(together, alone, strict=True):
        made = np.concatenate(parts)
        # the interpreter multiplies with NumPy, whose last bits depend on where a row is
        assert difference(made, right) < 1e-4 if IS_INTERPRETED else np.array_equal(made, right)


def decode_all(cuda: CudaDecoder, given: Sequence[Chunk]) -> list[Waveform]:
    """In as many calls as it takes."""
    made: list[Waveform] = []
    while len(made) < len(given):
        made += cuda.decode(given[len(made) :])
    return made


@pytest.mark.skipif(IS_INTERPRETED, reason="there are no graphs")
def test_a_call_captures_nothing_while_a_graph_holds_its_first_chunk(micro: Checkpoint) -> None:
    cuda = CudaDecoder(load_flow(micro.flow, DEVICE), calm_vocoder(micro), DTYPE)
    prefix = cuda.prefill(reference(4))
    ids = codes(8).tolist()
    streams = [cuda.open(prefix, seed, 100) for seed in range(12)]
    cuda.decode([Chunk(streams[0], ids, True)])
    captured = {*cuda._flow_graphs}, {*cuda._sound_graphs}
    left = [Chunk(stream, ids, True) for stream in streams[1:]]
    assert 1 <= len(cuda.decode(left)) < len(left)
    assert ({*cuda._flow_graphs}, {*cuda._sound_graphs}) == captured
    while cuda.capture_next():
        pass
    again = [Chunk(cuda.open(prefix, seed, 100), ids, True) for seed in range(12)]
    assert len(cuda.decode(again)) == 12


def test_a_call_takes_a_larger_graph_before_it_captures_one() -> None:
    assert graph_size(32, {}, 320, 1600) == 320
    assert graph_size(608, {32, 320}, 320, 1600) == 1600
    assert graph_size(32, {48, 320}, 320, 1600) == 48
    assert graph_size(48, {48, 320}, 320, 1600) == 48


def test_a_call_that_fails_leaves_its_streams_as_they_were(cuda: CudaDecoder) -> None:
    prefix = cuda.prefill(reference(4))
    streams = [cuda.open(prefix, 1, 100) for _ in range(3)]
    ids = codes(2).tolist()
    with pytest.raises(InvalidRequest):
        cuda.decode([Chunk(streams[0], ids, True), Chunk(streams[1], [AUDIO_CODES] * 5, True)])
    made, right = decode_all(cuda, [Chunk(streams[0], ids, True), Chunk(streams[2], ids, True)])
    assert difference(made, right) < 1e-4


def test_states_are_as_large_as_estimated(cuda: CudaDecoder) -> None:
    assert DTYPE.itemsize == STATE_BYTES or IS_INTERPRETED
    for groups in (1, 2):
        prefix = cuda.prefill(reference(groups))
        states = [] if prefix.state is None else [prefix.state]
        assert sum(held_bytes(state) for state in states) == cuda.costs.prefix_bytes(3 * groups)
        for frames in (12, 300):
            assert held_bytes(cuda.open(prefix, 1, frames).state) == cuda.costs.stream_bytes(frames)


def held_bytes(state: State) -> int:
    """Without the token encoder's columns, which are small in any network."""
    return state.keys.nbytes + state.columns.nbytes + state.cache.nbytes


@pytest.mark.skipif(IS_INTERPRETED, reason="there are no graphs")
def test_every_size_can_be_captured_ahead(cuda: CudaDecoder) -> None:
    right = sound(cuda, cuda.open(cuda.prefill(reference(4)), 1, 100), 9)
    before = torch.cuda.memory_allocated()
    while cuda.capture_next():
        pass
    assert torch.cuda.memory_allocated() - before < 10_000_000  # graphs have no memory of their own
    assert np.array_equal(sound(cuda, cuda.open(cuda.prefill(reference(4)), 1, 100), 9), right)
