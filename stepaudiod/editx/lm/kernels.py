"""The language model's products on a GPU, for decode steps and for prompts. Imported on CUDA only.

    _begin      looks up rows
    _multiply   rows times a matrix; after a norm, or followed by a gate or the residual

A norm is spread over three kernels, so that none waits for it: the kernel that makes a row also writes it
times the norm's weights, and each program the sum of squares of its part; the next `_multiply` reads the
former, and scales its result by the root of all squares.

A row's last bits never depend on its neighbours or their number: a block of rows is computed whole, used or
not. Nothing differs between blocks of 8 and of 16 rows, which decode steps have: sums are made in the same
order, and a multiplication and an addition are one instruction where `tl.fma` says so, not where the
assembler happens to make them one. For so few rows a tensor core takes no longer than for one, so the time is
the reading of the weights. There kernels overlap: each starts before the one before has ended, prefetches
weights, and then waits for the other's results.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from stepaudiod.editx.lm.kernel_parts import (
    fit,
    inputs_first,
    options,
    power_up_to,
    prefetch_weights,
    sliced,
    start_next,
    sum_pairs,
    wait,
)
from stepaudiod.editx.lm.tuning import Blocks

ROWS = 16
"""Rows of a decode step."""


@dataclass(frozen=True)
class Matrix:
    """A weight `(outputs, inputs)`, quantized or not.

    Args:
        weight: in the model's dtype; int8; or uint8 `(outputs, inputs / 2)`, two int4 levels to a byte: that
            of input i of the first half of all inputs in the low bits, that of the second half above.
        scale: `(outputs,)` of int8, `(outputs, inputs / 64)` of int4.
        zero: of int4, as its scale.
    """

    weight: Tensor
    scale: Tensor | None = None
    zero: Tensor | None = None

    @property
    def bits(self) -> int:
        """Bits per weight: 4, 8, or 16 for what needs no unpacking."""
        return 4 if self.zero is not None else 8 if self.scale is not None else 16


@dataclass(frozen=True)
class Rows:
    """The activations between layers.

    Args:
        x: `(rows, hidden)`.
        ready: the same times the next norm's weights.
        squares: `(rows, parts)` float32, sums over each part of each row.
        block: rows per program, the same for all kernels that use them.
        count: `(1,)` int32, how many rows are used; None: all.
        is_overlapped: kernels start before the one before has ended; at least one program of each waits.
    """

    x: Tensor
    ready: Tensor
    squares: Tensor
    block: int
    count: Tensor | None = None
    is_overlapped: bool = False

    @classmethod
    def new(cls, rows: int, like: Tensor, block: int, parts: int) -> Rows:
        """Allocate rows for a table `(codes, hidden)`."""
        x = torch.zeros(rows, like.shape[1], device=like.device, dtype=like.dtype)
        squares = torch.zeros(rows, parts, device=like.device)
        return cls(x, torch.zeros_like(x), squares, block)


@triton.jit
def start_row(
    code, row, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr,
    K: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr,
):  # fmt: skip
    """Look up one row."""
    k = tl.arange(0, BLOCK)
    is_value = k < K
    x = tl.load(table_ptr + code * K + k, mask=is_value, other=0.0)
    gain = tl.load(gain_ptr + k, mask=is_value, other=0.0)
    tl.store(x_ptr + row * K + k, x, mask=is_value)
    tl.store(ready_ptr + row * K + k, x * gain, mask=is_value)
    part = tl.arange(0, PARTS_UP)
    total = tl.sum(x.to(tl.float32) * x.to(tl.float32), 0)
    tl.store(squares_ptr + row * PARTS + part, tl.where(part == 0, total, 0.0), mask=part < PARTS)


@triton.jit(do_not_specialize=["code_stride"])
def _begin(
    codes_ptr, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr, code_stride,
    K: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr,
    IS_OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """Look up one row's code."""
    row = tl.program_id(0)
    wait(IS_OVERLAPPED)
    start_next(IS_OVERLAPPED)
    code = tl.load(codes_ptr + row * code_stride)
    start_row(code, row, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr, K, BLOCK, PARTS, PARTS_UP)


@triton.jit
def _add_product(
    sums, w_ptr, scale_ptr, zero_ptr, n, start, x, x_high, N_END, K: tl.constexpr,
    BITS: tl.constexpr, BLOCK_K: tl.constexpr, SLICES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a block of outputs times x, in x's dtype; int4 has one of each half of the inputs."""
    n_at, k_at = sliced(n, BLOCK_K, SLICES)
    if BITS == 4:
        both = tl.load(w_ptr + n_at * (K // 2) + start + k_at, mask=n_at < N_END, other=0)
        low, high, one = _levels(both, x.dtype)
        group, high_group = start // 64, (K // 2 + start) // 64
        if SLICES > 1:  # a slice is a group: its scale and its zero are left to its sums
            scale, zero = _group_scales(scale_ptr, zero_ptr, n, group, N_END, K, SLICES, x.dtype)
            sums = tl.fma(tl.dot(low, x, input_precision=PRECISION), scale, sums)
            sums = tl.fma(tl.dot(one, x, input_precision=PRECISION), zero, sums)
            scale, zero = _group_scales(scale_ptr, zero_ptr, n, high_group, N_END, K, SLICES, x.dtype)
            sums = tl.fma(tl.dot(high, x_high, input_precision=PRECISION), scale, sums)
            return tl.fma(tl.dot(one, x_high, input_precision=PRECISION), zero, sums)
        else:
            low = _scaled(low, scale_ptr, zero_ptr, n, group, N_END, K, BLOCK_K)
            high = _scaled(high, scale_ptr, zero_ptr, n, high_group, N_END, K, BLOCK_K)
            sums = tl.dot(low, x, sums, input_precision=PRECISION)
            return tl.dot(high, x_high, sums, input_precision=PRECISION)
    else:
        w = tl.load(w_ptr + n_at * K + start + k_at, mask=n_at < N_END, other=0).to(x.dtype)
        return tl.dot(w, x, sums, input_precision=PRECISION)


@triton.jit
def _group_scales(
    scale_ptr, zero_ptr, n, group, N_END, K: tl.constexpr, SLICES: tl.constexpr, dtype: tl.constexpr
):
    """Scales and zeros (slices, n, 1) float32 of so many groups; a zero has what `_levels` adds taken off."""
    at = n[None, :, None] * (K // 64) + group + tl.arange(0, SLICES)[:, None, None]
    real = n[None, :, None] < N_END
    scale = tl.load(scale_ptr + at, mask=real, other=0.0).to(tl.float32)
    zero = tl.load(zero_ptr + at, mask=real, other=0.0).to(tl.float32)
    return scale, zero - scale * 128.0 if dtype == tl.bfloat16 else zero


@triton.jit
def _levels(both, dtype: tl.constexpr):
    """The low and the high int4 of bytes as floats; as bfloat16 128 + level, whose bits are put together."""
    if dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high;
            and.b32 low, $6, 0x0F0F0F0F;
            shr.u32 high, $6, 4;
            and.b32 high, high, 0x0F0F0F0F;
            prmt.b32 $0, low, 0x43434343, 0x4140;
            prmt.b32 $1, low, 0x43434343, 0x4342;
            prmt.b32 $2, high, 0x43434343, 0x4140;
            prmt.b32 $3, high, 0x43434343, 0x4342;
            mov.b32 $4, 0x3F803F80;
            mov.b32 $5, 0x3F803F80;
            }""",
            "=r,=r,=r,=r,=r,=r,r", [both], dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True,
            pack=4,
        )  # fmt: skip
    else:
        low, high = (both & 15).to(dtype), (both >> 4).to(dtype)
        return low, high, tl.full(low.shape, 1.0, dtype)


@triton.jit
def _scaled(levels, scale_ptr, zero_ptr, n, group, N_END, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """int4 levels (n, BLOCK_K) to weights; a scale and a zero per 64 inputs."""
    if levels.dtype == tl.bfloat16:
        levels -= 128.0
    at = n[:, None] * (K // 64) + group + tl.arange(0, BLOCK_K // 64)[None]
    real = n[:, None] < N_END
    scale = tl.load(scale_ptr + at, mask=real, other=0.0)
    zero = tl.load(zero_ptr + at, mask=real, other=0.0)
    grouped = levels.reshape(n.shape[0], BLOCK_K // 64, 64)
    return (grouped * scale[:, :, None] + zero[:, :, None]).reshape(n.shape[0], BLOCK_K)


@triton.jit(do_not_specialize=["rows"])
def _multiply(
    x_ptr, w_ptr, scale_ptr, zero_ptr, squares_ptr, y_ptr, gain_ptr, ready_ptr, parts_ptr, count_ptr, rows,
    eps,
    N: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SLICES: tl.constexpr, AHEAD: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr,
    BITS: tl.constexpr, IS_GATED: tl.constexpr, IS_ADDED: tl.constexpr,
    IS_COUNTED: tl.constexpr, PRECISION: tl.constexpr, IS_OVERLAPPED: tl.constexpr,
    IS_LATE: tl.constexpr,
):  # fmt: skip
    """X (rows, K) times w (N, K) transposed; if gated, w is (2 N, K): gates, then values."""
    if IS_COUNTED:
        rows = tl.load(count_ptr)
        if tl.program_id(0) * BLOCK_M >= rows:
            return
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    STORED: tl.constexpr = K // 2 if BITS == 4 else K
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_row = row < rows
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = n < N
    if IS_OVERLAPPED:
        prefetch_weights(w_ptr, tl.minimum(n, N - 1), STORED, AHEAD)
        if IS_GATED:
            prefetch_weights(w_ptr, tl.minimum(n, N - 1) + N, STORED, AHEAD)
    # what is needed at the end is loaded here, so that it has come by then
    if BITS == 8:
        scale = tl.load(scale_ptr + n, mask=real, other=0.0)
        if IS_GATED:
            second_scale = tl.load(scale_ptr + n + N, mask=real, other=0.0)
    if IS_ADDED:
        gain = tl.load(gain_ptr + n, mask=real, other=0.0)
    wait(IS_OVERLAPPED)
    if not IS_LATE:
        start_next(IS_OVERLAPPED)
    at_y = row[:, None] * N + n[None]
    mask_y = is_row[:, None] & real[None]
    if IS_ADDED and BLOCK_M <= 16:
        old = tl.load(y_ptr + at_y, mask=mask_y, other=0.0)
    if PARTS > 0:
        part = tl.arange(0, PARTS_UP)[None]
        mask = (part < PARTS) & is_row[:, None]
        squares = tl.load(squares_ptr + row[:, None] * PARTS + part, mask=mask, other=0.0)
    row_at, k_at = sliced(row, BLOCK_K, SLICES)
    first = tl.zeros((BLOCK_N, BLOCK_M) if SLICES == 1 else (SLICES, BLOCK_N, BLOCK_M), tl.float32)
    second = first
    for start in range(0, STORED, BLOCK_K):
        at = x_ptr + row_at * K + start + k_at
        x = inputs_first(tl.load(at, mask=row_at < rows, other=0.0), SLICES)
        x_high = x
        if BITS == 4:
            x_high = inputs_first(tl.load(at + K // 2, mask=row_at < rows, other=0.0), SLICES)
        first = _add_product(
            first, w_ptr, scale_ptr, zero_ptr, n, start, x, x_high, N, K, BITS, BLOCK_K, SLICES, PRECISION
        )
        if IS_GATED:
            second = _add_product(
                second, w_ptr, scale_ptr, zero_ptr, n + N, start, x, x_high, 2 * N, K, BITS, BLOCK_K, SLICES,
                PRECISION,
            )  # fmt: skip
    if IS_LATE:
        start_next(IS_OVERLAPPED)
    if SLICES > 1:
        first, second = tl.sum(first, 0), tl.sum(second, 0)
    if BITS == 8:
        first *= scale.to(tl.float32)[:, None]
        if IS_GATED:
            second *= second_scale.to(tl.float32)[:, None]
    if PARTS > 0:
        root = tl.rsqrt(sum_pairs(squares, PARTS_UP) / K + eps)[None]
        first *= root
        second *= root
    if IS_GATED:
        gate = first.to(dtype).to(tl.float32)
        first = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * second.to(dtype).to(tl.float32)
    y = tl.trans(first.to(dtype))  # (rows, outputs)
    if IS_ADDED:
        if BLOCK_M > 16:  # so much would take the registers of the sums
            old = tl.load(y_ptr + at_y, mask=mask_y, other=0.0)
        y = (y.to(tl.float32) + old.to(tl.float32)).to(dtype)
        tl.store(ready_ptr + at_y, y * gain[None], mask=mask_y)
        # outputs beyond the last are zeros: their weights are
        total = sum_pairs(y.to(tl.float32) * y.to(tl.float32), BLOCK_N)
        tl.store(parts_ptr + row * tl.cdiv(N, BLOCK_N) + tl.program_id(1), total, mask=is_row)
    tl.store(y_ptr + at_y, y, mask=mask_y)


def begin(codes: Tensor, table: Tensor, gain: Tensor, rows: Rows) -> None:
    """Look up codes `(rows,)` in a table `(codes, hidden)`; `gain` is the first norm's weights."""
    (count, hidden), parts = rows.x.shape, rows.squares.shape[1]
    _begin[(count,)](
        codes, table, gain, rows.x, rows.ready, rows.squares, codes.stride(0), K=hidden,
        BLOCK=triton.next_power_of_2(hidden), PARTS=parts, PARTS_UP=triton.next_power_of_2(parts),
        IS_OVERLAPPED=rows.is_overlapped, **options(rows.is_overlapped),
    )  # fmt: skip


def multiply(
    x: Tensor,
    matrix: Matrix,
    y: Tensor,
    rows: Rows,
    blocks: Blocks,
    *,
    eps: float | None = None,
    gain: Tensor | None = None,
    is_gated: bool = False,
) -> None:
    """Multiply by a matrix.

    Args:
        x: `(rows, inputs)`; `rows.ready`, if a norm comes before.
        matrix: the weight; if gated, gates above values.
        y: `(rows, outputs)`, written to; to `rows.x`, the result is added.
        rows: what is read or written beside x and y.
        blocks: fixed for each matrix, whatever the number of rows.
        eps: of the norm before, if there is one.
        gain: weights of the norm after, if y is `rows.x`.
        is_gated: the result is silu(gate) * value.
    """
    (count, inputs), outputs = x.shape, y.shape[1]
    stored = inputs // 2 if matrix.bits == 4 else inputs
    block_k = fit(blocks.k, stored)
    slices = min(blocks.slices, block_k // 64) or 1
    if matrix.bits == 4 and slices > 1:
        slices = block_k // 64
    parts = rows.squares.shape[1] if eps is not None else 0
    _multiply[(triton.cdiv(count, rows.block), triton.cdiv(outputs, blocks.n))](
        x, matrix.weight, matrix.scale, matrix.zero, rows.squares, y, gain, rows.ready, rows.squares,
        rows.count, count, eps or 0.0,
        N=outputs, K=inputs, BLOCK_M=rows.block, BLOCK_N=blocks.n, BLOCK_K=block_k, SLICES=slices,
        AHEAD=power_up_to(min(blocks.ahead, stored)), PARTS=parts,
        PARTS_UP=triton.next_power_of_2(max(parts, 1)), BITS=matrix.bits,
        IS_GATED=is_gated, IS_ADDED=gain is not None, IS_COUNTED=rows.count is not None,
        PRECISION="ieee" if x.dtype is torch.float32 else "tf32", IS_OVERLAPPED=rows.is_overlapped,
        IS_LATE=blocks.is_late,
        num_warps=blocks.warps, num_stages=blocks.stages, **options(rows.is_overlapped),
    )  # fmt: skip
