"""The vocoder on a GPU: sequences of frames behind each other, in products and kernels that graphs record.

Rows at 50 Hz, 400 Hz, 2, 6 kHz. See `vocoder` for the network, `sound_kernels` for the layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn

from stepaudiod.editx.decoder.arena import Arena
from stepaudiod.editx.decoder.dit import MELS
from stepaudiod.editx.decoder.products import EXACT, Act, Mask, Weights, multiply
from stepaudiod.editx.decoder.runner import SOURCE_NOISE
from stepaudiod.editx.decoder.sound_kernels import (
    accumulate,
    analyse,
    average,
    bend,
    classify,
    combine,
    excite,
    gather,
    keep,
    synthesise,
)
from stepaudiod.editx.decoder.source import AMPLITUDE, HARMONICS, NOISE_AMPLITUDE, VOICED_HZ
from stepaudiod.editx.decoder.streaming import CONTEXT_FRAMES, OVERLAP_FRAMES
from stepaudiod.editx.decoder.table import SoundTables
from stepaudiod.editx.decoder.vocoder import (
    BINS,
    DILATIONS,
    DOWN_STRIDES,
    FFT,
    FFT_HOP,
    KERNELS,
    LIMIT,
    MAX_MAGNITUDE,
    RATES,
    ResidualBlock,
    Vocoder,
)
from stepaudiod.editx.tokenizers.features import HOP, SAMPLE_RATE

CHANNELS = 32
"""Of short spectra, padded."""
KEPT_FRAMES = CONTEXT_FRAMES + OVERLAP_FRAMES
ELEMENTS = 4096
"""Of a program of the elementwise kernels."""


@dataclass(frozen=True)
class _Branch:
    """A residual block: for each dilation both convolutions and both snakes."""

    convs1: list[Weights]
    convs2: list[Weights]
    alphas1: list[Tensor]
    alphas2: list[Tensor]

    @classmethod
    def of(cls, block: nn.Module, dtype: torch.dtype) -> _Branch:
        assert isinstance(block, ResidualBlock)
        convs = [[Weights.of(dtype, conv) for conv in each] for each in (block.convs1, block.convs2)]
        alphas = [
            [snake.alpha.detach().float() for snake in each]  # type: ignore[operator]
            for each in (block.activations1, block.activations2)
        ]
        return cls(*convs, *alphas)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Stage:
    up: Weights
    down: Weights
    source: _Branch
    branches: list[_Branch]


@dataclass(frozen=True)
class _Buffers:
    """Activations.

    Args:
        mel, exact: `(frames, 80)`, in the products' format and in float32.
        pitch: `(frames, 1)`.
        turns: `(slots, 16)` and phases `(frames, 16)`; see `sound_kernels.accumulate`.
        source: `(frames, 480)`, and its short spectra `(120 * frames + 1, 32)`.
        pitched: two of the pitch's network.
        narrow: two for inputs of convolutions in a stage; the first also has the stage's input and result.
        wide: four for sums in a stage, float32.
        spectrum: `(120 * frames + 1, 32)`, of the sound.
    """

    mel: Tensor
    exact: Tensor
    pitch: Tensor
    turns: Tensor
    phases: Tensor
    source: Tensor
    spectra: Tensor
    pitched: list[Tensor]
    wide: list[Tensor]
    narrow: list[Tensor]
    spectrum: Tensor


class VocoderKernels:
    """The networks' weights, as products read them; buffers are taken from the arena."""

    def __init__(self, vocoder: Vocoder, dtype: torch.dtype, arena: Arena) -> None:
        self._dtype, self._arena = dtype, arena
        convs = [Weights.of(dtype, conv) for conv in vocoder.f0_predictor.condnet.values()]
        self._pitch, self._classifier = convs, vocoder.f0_predictor.classifier
        self._source = vocoder.m_source.l_linear
        self._pre = Weights.of(dtype, vocoder.conv_pre)
        stages = zip(vocoder.ups, vocoder.source_downs, vocoder.source_resblocks, strict=True)
        self._stages = [
            _Stage(
                _transposed(up, RATES[index], dtype),
                _of_spectra(down, dtype),
                _Branch.of(source, dtype),
                [_Branch.of(block, dtype) for block in vocoder.resblocks[3 * index : 3 * index + 3]],
            )
            for index, (up, down, source) in enumerate(stages)
        ]
        post = Weights.of(dtype, vocoder.conv_post)
        assert post.bias is not None
        more = CHANNELS - post.weight.shape[0]
        self._post = Weights(F.pad(post.weight, (0, 0, 0, more)), F.pad(post.bias, (0, more)), post.taps)
        device = post.weight.device
        self._window = torch.hann_window(FFT, device=device)
        angle = (
            torch.arange(FFT, device=device)[:, None]
            * torch.arange(BINS, device=device)
            * (2 * math.pi / FFT)
        )
        forward = torch.cat((angle.cos(), -angle.sin()), dim=1) * self._window[:, None]
        self._forward = F.pad(forward, (0, CHANNELS - 2 * BINS)).contiguous()  # (16, 32)
        weight = torch.full((BINS,), 2.0 / FFT, device=device)
        weight[0] = weight[-1] = 1.0 / FFT
        backward = torch.stack((angle.cos() * weight, -angle.sin() * weight))
        backward[1, :, [0, BINS - 1]] = 0.0  # imaginary parts that a real signal doesn't have
        self._backward = F.pad(backward, (0, 16 - BINS)).contiguous()  # (2, 16, 16)

    def reserve(self, frames: int, slots: int) -> None:
        """Note the memory of a run of so many frames in the arena."""
        self._buffers(frames, slots)

    def _buffers(self, frames: int, slots: int) -> _Buffers:
        arena, dtype = self._arena, self._dtype
        rates = [math.prod(RATES[: index + 1]) for index in range(len(RATES))]
        widths = [stage.down.weight.shape[0] for stage in self._stages]
        # a transposed convolution gives a few rows more
        values = max((rate * (frames + 1)) * width for rate, width in zip(rates, widths, strict=True))
        values = max(values, frames * self._pre.weight.shape[0])
        pitched = self._pitch[0].weight.shape[0]
        arena.clear()
        return _Buffers(
            arena.take(frames, MELS, dtype),
            arena.take(frames, MELS),
            arena.take(frames, 1),
            arena.take(slots, 16, torch.float64),
            arena.take(frames, 16, torch.float64),
            arena.take(frames, HOP),
            arena.take(frames * HOP // FFT_HOP + 1, CHANNELS, dtype),
            [arena.take(frames, pitched, dtype) for _ in range(2)],
            [arena.take(1, values) for _ in range(4)],
            [arena.take(1, values, dtype) for _ in range(2)],
            arena.take(frames * HOP // FFT_HOP + 1, CHANNELS),
        )

    def run(self, frames: int, tables: SoundTables, made: Tensor, sound: Tensor) -> None:
        """Launch everything.

        Args:
            frames: rows at 50 Hz.
            tables: which of them are used.
            made: `(rows, 80)` float32 mel of the flow decoder, in time.
            sound: `(frames, 480)` float32, written to.
        """
        slots, block = len(tables.sounds), triton.next_power_of_2(MELS)
        buffers = self._buffers(frames, slots)
        gather[(frames,)](
            made,
            buffers.mel,
            buffers.exact,
            tables.sounds,
            tables.places,
            MELS=MELS,
            BLOCK=block,
            num_warps=1,
        )
        self._predict(buffers, tables)
        self._excite(buffers, tables)
        self._convolve(buffers, tables)
        synthesise[(frames, HOP // 120)](
            buffers.spectrum, self._backward, self._window, sound, tables.sounds, tables.places,
            HOP=HOP, STEP=FFT_HOP, SIZE=FFT, SAMPLES=120, BLOCK=128, LARGEST=MAX_MAGNITUDE, LIMIT=LIMIT,
        )  # fmt: skip
        keep[(slots, KEPT_FRAMES)](
            buffers.exact, buffers.pitch, buffers.turns, tables.sounds, MELS=MELS, BLOCK=block, num_warps=1
        )

    def _predict(self, buffers: _Buffers, tables: SoundTables) -> None:
        """Each frame's pitch in Hz."""
        x = buffers.mel
        for index, weights in enumerate(self._pitch):
            y = buffers.pitched[index % 2]
            multiply(x, weights, y, offset=1, act=Act.ELU, mask=Mask(tables.times, 1))
            x = y
        classify[(x.shape[0],)](
            x, self._classifier.weight, self._classifier.bias, buffers.pitch, tables.sounds, tables.places,
            SIZE=x.shape[1],
        )  # fmt: skip

    def _excite(self, buffers: _Buffers, tables: SoundTables) -> None:
        """The source, and its short spectra."""
        slots, (frames, _), rows = len(tables.sounds), buffers.phases.shape, buffers.spectra.shape[0]
        accumulate[(slots,)](
            buffers.pitch, buffers.phases, buffers.turns, tables.sounds,
            RATE=SAMPLE_RATE, HOP=HOP, BLOCK=32, num_warps=1,
        )  # fmt: skip
        excite[(frames,)](
            buffers.pitch, buffers.phases, self._source.weight, self._source.bias, buffers.source,
            tables.sounds, tables.places,
            STREAM=SOURCE_NOISE, HARMONICS=HARMONICS, HOP=HOP, BLOCK=triton.next_power_of_2(HOP),
            LOUD=AMPLITUDE, QUIET=NOISE_AMPLITUDE, VOICED=VOICED_HZ, num_warps=8,
        )  # fmt: skip
        analyse[(triton.cdiv(rows, 64),)](
            buffers.source, self._forward, buffers.spectra, tables.sounds, tables.places, rows,
            HOP=HOP, STEP=FFT_HOP, SIZE=FFT, BLOCK=64, **EXACT,
        )  # fmt: skip

    def _convolve(self, buffers: _Buffers, tables: SoundTables) -> None:
        """Mel and source to what the inverse transform reads."""
        rate, last, frames = 1, len(self._stages) - 1, buffers.mel.shape[0]
        x = _part(buffers.narrow[0], frames, self._pre.weight.shape[0])
        mask = Mask(tables.times, 1)
        multiply(buffers.mel, self._pre, x, offset=3, act=Act.LEAKY, slope=0.1, mask=mask)
        for index in range(len(self._stages)):
            rate *= RATES[index]
            mask = Mask(tables.times, rate, int(index == last))
            x = self._run_stage(index, x, rate * frames + mask.extra, buffers, mask)
        multiply(x, self._post, buffers.spectrum, offset=3)

    def _run_stage(self, index: int, x: Tensor, rows: int, buffers: _Buffers, mask: Mask) -> Tensor:
        """Upsample x, add the source, and run the three branches; their mean after a leaky ReLU.

        It is where x was, which is read first.
        """
        stage, step = self._stages[index], RATES[index]
        channels = stage.down.weight.shape[0]
        mixed, *branches = (_part(each, rows, channels) for each in buffers.wide)
        narrow = [_part(each, rows, channels) for each in buffers.narrow]
        block, is_last = triton.cdiv(ELEMENTS, channels), index + 1 == len(self._stages)
        up, source, stride = (
            _part(buffers.wide[3], x.shape[0] + 1, step * channels),
            branches[0],
            DOWN_STRIDES[index],
        )
        multiply(x, stage.up, up, dilation=-1)
        multiply(buffers.spectra, stage.down, source, stride=stride, offset=stride // 2)
        _run_branch(stage.source, source, source, narrow, mask)
        combine[(triton.cdiv(rows, block),)](
            up, source, mixed, mask.times, rows, (KERNELS[index] - step) // 2, mask.rate,
            IS_LAST=is_last, BLOCK=block, SIZE=channels, **EXACT,
        )  # fmt: skip
        for branch, to in zip(stage.branches, branches, strict=True):
            _run_branch(branch, mixed, to, narrow, mask)
        average[(triton.cdiv(rows, block),)](
            *branches, narrow[0], mask.times, rows, mask.rate, mask.extra, 0.01 if is_last else 0.1,
            BLOCK=block, SIZE=channels, **EXACT,
        )  # fmt: skip
        return narrow[0]


def _run_branch(branch: _Branch, x: Tensor, y: Tensor, narrow: list[Tensor], mask: Mask) -> None:
    """Y = x and the branch's three pairs of convolutions, each added; y may be x."""
    (rows, channels), block = x.shape, triton.cdiv(ELEMENTS, x.shape[1])
    bend[(triton.cdiv(rows, block),)](
        x, narrow[0], branch.alphas1[0], mask.times, rows, mask.rate, mask.extra,
        BLOCK=block, SIZE=channels, **EXACT,
    )  # fmt: skip
    for index, (conv1, conv2) in enumerate(zip(branch.convs1, branch.convs2, strict=True)):
        dilation, is_last = DILATIONS[index], index + 1 == len(DILATIONS)
        multiply(
            narrow[0], conv1, narrow[1], dilation=dilation, offset=(conv1.taps - 1) * dilation // 2,
            act=Act.SNAKE, alpha=branch.alphas2[index], mask=mask,
        )  # fmt: skip
        multiply(
            narrow[1], conv2, y, offset=conv2.taps // 2, added=y if index else x,
            copy=None if is_last else narrow[0], alpha=None if is_last else branch.alphas1[index + 1],
            mask=None if is_last else mask,
        )  # fmt: skip


def _part(buffer: Tensor, rows: int, width: int) -> Tensor:
    """The beginning of a buffer `(1, values)`."""
    return buffer[0, : rows * width].view(rows, width)


def _transposed(conv: nn.Module, step: int, dtype: torch.dtype) -> Weights:
    """A transposed convolution as a product: a row gives `step` rows, and reads rows before it.

    Output `step * m + phase` sums input `m - tap` times the kernel's place `phase + step * tap`.
    """
    assert isinstance(conv, nn.ConvTranspose1d)
    inputs, outputs, kernel = conv.weight.shape
    taps = -(-kernel // step)
    weight = F.pad(conv.weight.detach(), (0, taps * step - kernel))
    # (inputs, outputs, taps, step) -> (step, outputs, taps, inputs)
    weight = (
        weight.view(inputs, outputs, taps, step).permute(3, 1, 2, 0).reshape(step * outputs, taps * inputs)
    )
    assert conv.bias is not None
    return Weights(weight.to(dtype).contiguous(), conv.bias.detach().float().repeat(step), taps)


def _of_spectra(conv: nn.Module, dtype: torch.dtype) -> Weights:
    """A convolution of spectra, whose channels are padded."""
    assert isinstance(conv, nn.Conv1d)
    weight = F.pad(conv.weight.detach(), (0, 0, 0, CHANNELS - conv.weight.shape[1]))
    assert conv.bias is not None
    return Weights(
        weight.transpose(1, 2).flatten(1).to(dtype).contiguous(), conv.bias.detach().float(), weight.shape[2]
    )
