"""Products of rows with weights on a GPU: linear layers and convolutions in one Triton kernel.

A convolution is a product whose input row is several rows next to each other, so its rows are gathered while
they are read. Rows of many sequences lie behind each other:

    x    ·· sequence ··│gap│·· sequence ··        (rows, inputs)
    y    row r  =  sum over taps j of  x[(stride * r + dilation * j - offset) / up]  times  weight[:, j]

A row's sums are made in the same order in tiles of every size, so they don't depend on other rows. Nor does
their rounding: whether a multiplication and an addition are one instruction would otherwise be the
assembler's choice, and it differs between the places of a tile. So kernels whose programs take rows of
several sequences are compiled with `EXACT`, and fuse where they say so. Independent of networks. Imported on
CUDA only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

SMALL_ROWS, LARGE_ROWS = 512, 2048
"""Up to so many rows the tiles are small, and beyond so many they are large."""
EXACT = {"enable_fp_fusion": False}
"""Options of a kernel: no operations are fused but by `tl.fma`."""


class Act(IntEnum):
    """What is applied to a product and its bias."""

    NONE = 0
    GELU = 1
    SILU = 2
    ELU = 3
    LEAKY = 4
    SNAKE = 5


@dataclass(frozen=True)
class Weights:
    """Weights of a product.

    Args:
        weight: `(outputs, taps * inputs)`.
        bias: `(outputs,)` float32.
        taps: rows that are gathered for a row.
    """

    weight: Tensor
    bias: Tensor | None
    taps: int = 1

    @property
    def inputs(self) -> int:
        return self.weight.shape[1] // self.taps

    @classmethod
    def of(cls, dtype: torch.dtype, *modules: nn.Module) -> Weights:
        """Take them from linear layers or convolutions that read the same input, one below the other."""
        weights, biases, taps = [], [], 1
        for module in modules:
            assert isinstance(module, (nn.Linear, nn.Conv1d))
            weight = module.weight.detach().to(dtype)
            if weight.dim() == 3:  # (outputs, inputs, taps) -> (outputs, taps * inputs)
                taps, weight = weight.shape[2], weight.transpose(1, 2).flatten(1)
            weights.append(weight)
            biases += [] if module.bias is None else [module.bias.detach().float()]
        return cls(torch.cat(weights).contiguous(), torch.cat(biases) if biases else None, taps)


@dataclass(frozen=True)
class Gate:
    """A factor of each output, which depends on the solver's step.

    Args:
        vectors: `(steps, …, outputs)` float32, at the vector of step 0.
        stride: from one step's vector to the next.
        step: `()` int64.
    """

    vectors: Tensor
    stride: int
    step: Tensor


@dataclass(frozen=True)
class Mask:
    """The rows that belong to a sequence; others are made zero.

    Args:
        times: `(frames + 1,)` int64, -1 in gaps.
        rate: rows of a frame.
        extra: rows that a sequence has beyond its frames.
    """

    times: Tensor
    rate: int
    extra: int = 0


@triton.jit
def snake(x, alpha):
    """Add sin²(ax)/a to x.

    Squared, a sine has a period of pi, in which a polynomial is right to 4e-6: a library's sine is many
    times slower.
    """
    angle = x * alpha
    turns = tl.floor(tl.fma(angle, 0.3183098861837907, 0.5))
    angle = tl.fma(turns, -9.676535897932e-4, tl.fma(turns, -3.140625, angle))
    square = angle * angle
    sine = tl.fma(square, tl.fma(square, 1 / 362880, -1 / 5040), 1 / 120)
    sine = tl.fma(square, tl.fma(square, sine, -1 / 6), 1.0)
    return tl.fma(square * sine * sine, 1.0 / (alpha + 1e-9), x)


@triton.jit
def is_real(times_ptr, row, rate, extra):
    """Whether rows belong to a sequence; see `Mask`."""
    return (tl.load(times_ptr + row // rate) >= 0) | (
        tl.load(times_ptr + tl.maximum(row - extra, 0) // rate) >= 0
    )


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """In another format; half precision has the largest number for what is larger."""
    if dtype == tl.float16:
        x = tl.minimum(tl.maximum(x, -65504.0), 65504.0)
    return x.to(dtype)


@triton.jit
def tanh(x):
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def _act(x, ACT: tl.constexpr, slope):
    if ACT == 1:
        x = 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    if ACT == 2:
        x = x * tl.sigmoid(x)
    if ACT == 3:
        x = tl.where(x > 0, x, tl.exp(tl.minimum(x, 0.0)) - 1.0)
    if ACT == 4:
        x = tl.where(x > 0, x, x * slope)
    return x


@triton.jit(do_not_specialize=["rows", "rows_in", "taps", "stride", "dilation", "offset", "rate", "extra"])
def _product(
    x_ptr, w_ptr, bias_ptr, y_ptr, added_ptr, gate_ptr, step_ptr, copy_ptr, alpha_ptr, times_ptr, places_ptr,
    rows, rows_in, N, K, taps, stride, dilation, offset, rate, extra, gate_stride, slope,
    ACT: tl.constexpr, HAS_BIAS: tl.constexpr, IS_ADDED: tl.constexpr, IS_GATED: tl.constexpr,
    COPY: tl.constexpr, IS_MASKED: tl.constexpr, IS_PLACED: tl.constexpr, UP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of y (rows, N); COPY 1 also stores it to `copy_ptr`, 2 after a snake."""
    tiles = tl.cdiv(N, BLOCK_N)
    m = (tl.program_id(0) // tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tl.program_id(0) % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_output = m < rows, n < N
    if IS_PLACED:
        place = tl.load(places_ptr + m, mask=is_row, other=-1000000).to(tl.int32)
    else:
        place = m * stride - offset
    blocks = tl.cdiv(K, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for i in range(0, taps * blocks):
        tap = i // blocks
        k = (i - tap * blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        source = place + tap * dilation
        is_source = is_row & (source >= 0)
        source = source // UP
        is_source &= source < rows_in
        is_input = k < K
        x = tl.load(
            x_ptr + source[:, None].to(tl.int64) * K + k[None],
            mask=is_source[:, None] & is_input[None], other=0.0,
        )  # fmt: skip
        w = tl.load(
            w_ptr + n[None] * (taps * K) + tap * K + k[:, None],
            mask=is_output[None] & is_input[:, None], other=0.0,
        )  # fmt: skip
        total = tl.dot(x, w, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias_ptr + n, mask=is_output, other=0.0)[None]
    if ACT == 5:
        total = snake(total, tl.load(alpha_ptr + n, mask=is_output, other=1.0)[None])
    else:
        total = _act(total, ACT, slope)
    at = m[:, None].to(tl.int64) * N + n[None]
    mask = is_row[:, None] & is_output[None]
    if IS_GATED:
        gate = gate_ptr + tl.load(step_ptr) * gate_stride + n
        total *= tl.load(gate, mask=is_output, other=0.0)[None]
    if IS_ADDED:
        total += tl.load(added_ptr + at, mask=mask, other=0.0)
    if COPY == 0:
        if IS_MASKED:
            total = tl.where(is_real(times_ptr, tl.minimum(m, rows - 1), rate, extra)[:, None], total, 0.0)
        tl.store(y_ptr + at, rounded(total, y_ptr.dtype.element_ty), mask=mask)
    else:
        tl.store(y_ptr + at, rounded(total, y_ptr.dtype.element_ty), mask=mask)
        if COPY == 2:
            total = snake(total, tl.load(alpha_ptr + n, mask=is_output, other=1.0)[None])
        if IS_MASKED:
            total = tl.where(is_real(times_ptr, tl.minimum(m, rows - 1), rate, extra)[:, None], total, 0.0)
        tl.store(copy_ptr + at, rounded(total, copy_ptr.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class Tile:
    """Rows, outputs and inputs of a program's blocks, its warps, and blocks in flight."""

    m: int
    n: int
    k: int
    warps: int
    stages: int

    @classmethod
    def best(cls, rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> Tile:
        k = max(16, triton.next_power_of_2(inputs))
        if dtype is torch.float32:
            return cls(64, 32, min(k, 32), 4, 2)
        if rows <= SMALL_ROWS:  # few programs, each of which waits for its inputs
            return cls(64, 32, min(k, 128), 4, 4)
        if rows <= LARGE_ROWS:
            return cls(64, 64, min(k, 64), 4, 4)
        return cls(128, 128, min(k, 64), 8, 3) if outputs > 64 else cls(128, 64, min(k, 64), 4, 3)


def multiply(
    x: Tensor,
    weights: Weights,
    y: Tensor,
    *,
    stride: int = 1,
    dilation: int = 1,
    offset: int = 0,
    up: int = 1,
    places: Tensor | None = None,
    act: Act = Act.NONE,
    slope: float = 0.0,
    gate: Gate | None = None,
    added: Tensor | None = None,
    copy: Tensor | None = None,
    alpha: Tensor | None = None,
    mask: Mask | None = None,
    tile: Tile | None = None,
) -> None:
    """Multiply rows by weights.

    Args:
        x: `(rows in, inputs)`.
        weights: of as many inputs.
        y: `(rows, outputs)`, written to.
        stride: see the module, also for the next three.
        dilation: likewise.
        offset: likewise.
        up: likewise.
        places: `(rows,)` int64, in place of `stride * row - offset`.
        act: applied to the product.
        slope: for `LEAKY`.
        gate: multiplies after that.
        added: `(rows, outputs)` float32, added after that; it may be y.
        copy: `(rows, outputs)`, gets y after a snake if there is `alpha`.
        alpha: `(outputs,)` of the snake.
        mask: of what is written last: the copy, or y.
        tile: for tuning.
    """
    (rows_in, inputs), (rows, outputs) = x.shape, y.shape
    assert inputs == weights.inputs, (inputs, weights.inputs)
    tile = tile or Tile.best(rows, outputs, inputs, x.dtype)
    _product[(triton.cdiv(rows, tile.m) * triton.cdiv(outputs, tile.n),)](
        x, weights.weight, weights.bias, y, added,
        gate.vectors if gate else None, gate.step if gate else None, copy, alpha,
        mask.times if mask else None, places,
        rows, rows_in, outputs, inputs, weights.taps, stride, dilation, offset,
        mask.rate if mask else 1, mask.extra if mask else 0, gate.stride if gate else 0, slope,
        ACT=int(act), HAS_BIAS=weights.bias is not None, IS_ADDED=added is not None,
        IS_GATED=gate is not None, COPY=0 if copy is None else 1 if alpha is None else 2,
        IS_MASKED=mask is not None, IS_PLACED=places is not None, UP=up,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k,
        PRECISION="ieee" if x.dtype is torch.float32 else "tf32", num_warps=tile.warps,
        num_stages=tile.stages, **EXACT,
    )  # fmt: skip
