"""The language model's products on a GPU, for decode steps and for prompts. Imported on CUDA only.

    _begin      looks up rows
    _multiply   rows times a matrix; after a norm, or followed by a gate or the residual

A norm is spread over three kernels, so that none waits for it: the kernel that makes a row also writes it
times the norm's weights, and each program the sum of squares of its part; the next `_multiply` reads the
former, and scales its result by the root of all squares.

A row's last bits never depend on its neighbours or their number: a block of rows is computed whole, used or
not, and no block's size depends on them. A decode step has one block of 16 rows, for which a tensor core
takes no longer than for one, so that its time is the reading of the weights. There kernels overlap: each
starts while the one before runs, prefetches weights, and then waits for the other's results.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.nvidia.compiler import CUDAOptions

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
        squares: `(parts, rows)` float32, sums over each part of each row.
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
        squares = torch.zeros(parts, rows, device=like.device)
        return cls(x, torch.zeros_like(x), squares, block)


@triton.jit
def wait(IS_OVERLAPPED: tl.constexpr):
    """Wait for the kernel before, and let the next start: all before this one has ended by then."""
    if IS_OVERLAPPED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def prefetch(pointers):
    """Bring 128 bytes from each address to the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def start_row(
    code, row, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr,
    K: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr, STRIDE: tl.constexpr,
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
    tl.store(squares_ptr + part * STRIDE + row, tl.where(part == 0, total, 0.0), mask=part < PARTS)


@triton.jit(do_not_specialize=["code_stride"])
def _begin(
    codes_ptr, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr, code_stride,
    K: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr, STRIDE: tl.constexpr,
    IS_OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """Look up one row's code."""
    row = tl.program_id(0)
    wait(IS_OVERLAPPED)
    code = tl.load(codes_ptr + row * code_stride)
    start_row(
        code, row, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr, K, BLOCK, PARTS, PARTS_UP, STRIDE
    )


@triton.jit
def sliced(outer, BLOCK: tl.constexpr, SLICES: tl.constexpr):
    """Indices of a block's outputs, or rows, and of its inputs, in one or several slices."""
    if SLICES == 1:
        return outer[:, None], tl.arange(0, BLOCK)[None]
    else:
        k = tl.arange(0, SLICES)[:, None] * (BLOCK // SLICES) + tl.arange(0, BLOCK // SLICES)[None]
        return outer[None, :, None], k[:, None]


@triton.jit
def inputs_first(x, SLICES: tl.constexpr):
    """(slices, rows, inputs) to (slices, inputs, rows)."""
    if SLICES == 1:
        return tl.trans(x)
    else:
        return tl.trans(x, 0, 2, 1)


@triton.jit
def _add_product(
    sums, w_ptr, scale_ptr, zero_ptr, n, start, x, x_high, N_END, K: tl.constexpr, BITS: tl.constexpr,
    BLOCK_K: tl.constexpr, SLICES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a block of outputs times x, in x's dtype; int4 has one of each half of the inputs."""
    n_at, k_at = sliced(n, BLOCK_K, SLICES)
    if BITS == 4:
        both = tl.load(w_ptr + n_at * (K // 2) + start + k_at, mask=n_at < N_END, other=0)
        low, high = _levels(both, x.dtype)
        low = _scaled(low, scale_ptr, zero_ptr, n, start, N_END, K, BLOCK_K, SLICES)
        high = _scaled(high, scale_ptr, zero_ptr, n, K // 2 + start, N_END, K, BLOCK_K, SLICES)
        sums = tl.dot(low, x, sums, input_precision=PRECISION)
        return tl.dot(high, x_high, sums, input_precision=PRECISION)
    else:
        w = tl.load(w_ptr + n_at * K + start + k_at, mask=n_at < N_END, other=0).to(x.dtype)
        return tl.dot(w, x, sums, input_precision=PRECISION)


@triton.jit
def _levels(both, dtype: tl.constexpr):
    """The low and the high int4 of bytes as floats; of bfloat16 the bits of 128 + level are put together."""
    if dtype == tl.bfloat16:
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high;
            and.b32 low, $4, 0x0F0F0F0F;
            shr.u32 high, $4, 4;
            and.b32 high, high, 0x0F0F0F0F;
            prmt.b32 $0, low, 0x43434343, 0x4140;
            prmt.b32 $1, low, 0x43434343, 0x4342;
            prmt.b32 $2, high, 0x43434343, 0x4140;
            prmt.b32 $3, high, 0x43434343, 0x4342;
            }""",
            "=r,=r,=r,=r,r", [both], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4,
        )  # fmt: skip
        return low - 128.0, high - 128.0
    else:
        return (both & 15).to(dtype), (both >> 4).to(dtype)


@triton.jit
def _scaled(
    levels, scale_ptr, zero_ptr, n, start, N_END, K: tl.constexpr, BLOCK_K: tl.constexpr,
    SLICES: tl.constexpr,
):  # fmt: skip
    """int4 levels (n, BLOCK_K), or (slices, n, 64), to weights; a scale and a zero per 64 inputs."""
    n_at, group_at = sliced(n, BLOCK_K // 64, SLICES)
    group, real = n_at * (K // 64) + start // 64 + group_at, n_at < N_END
    scale = tl.load(scale_ptr + group, mask=real, other=0.0)
    zero = tl.load(zero_ptr + group, mask=real, other=0.0)
    if SLICES == 1:
        grouped = levels.reshape(n.shape[0], BLOCK_K // 64, 64)
        return (grouped * scale[:, :, None] + zero[:, :, None]).reshape(n.shape[0], BLOCK_K)
    else:
        return levels * scale + zero


@triton.jit
def prefetch_weights(w_ptr, n, STORED: tl.constexpr, AHEAD: tl.constexpr):
    """The first inputs of some outputs."""
    LINE: tl.constexpr = 1024 // w_ptr.dtype.element_ty.primitive_bitwidth
    if AHEAD >= LINE:
        prefetch(w_ptr + n[:, None] * STORED + (tl.arange(0, AHEAD // LINE) * LINE)[None])


@triton.jit(do_not_specialize=["rows"])
def _multiply(
    x_ptr, w_ptr, scale_ptr, zero_ptr, squares_ptr, y_ptr, gain_ptr, ready_ptr, parts_ptr, count_ptr, rows,
    eps,
    N: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SLICES: tl.constexpr, AHEAD: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr,
    STRIDE: tl.constexpr, BITS: tl.constexpr, IS_GATED: tl.constexpr, IS_ADDED: tl.constexpr,
    IS_COUNTED: tl.constexpr, PRECISION: tl.constexpr, IS_OVERLAPPED: tl.constexpr,
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
    at_y = row[:, None] * N + n[None]
    mask_y = is_row[:, None] & real[None]
    if IS_ADDED and BLOCK_M <= 16:
        old = tl.load(y_ptr + at_y, mask=mask_y, other=0.0)
    if PARTS > 0:
        part = tl.arange(0, PARTS_UP)[:, None]
        mask = (part < PARTS) & is_row[None]
        squares = tl.load(squares_ptr + part * STRIDE + row[None], mask=mask, other=0.0)
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
    if SLICES > 1:
        first, second = tl.sum(first, 0), tl.sum(second, 0)
    if BITS == 8:
        first *= scale.to(tl.float32)[:, None]
        if IS_GATED:
            second *= second_scale.to(tl.float32)[:, None]
    if PARTS > 0:
        root = tl.rsqrt(tl.sum(squares, 0) / K + eps)[None]
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
        total = tl.sum(y.to(tl.float32) * y.to(tl.float32), 1)
        tl.store(parts_ptr + tl.program_id(1) * STRIDE + row, total, mask=is_row)
    tl.store(y_ptr + at_y, y, mask=mask_y)


def can_overlap(device: torch.device) -> bool:
    """Whether kernels of this GPU and this Triton can start before the one before has ended."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= (9, 0)
        and any(field.name == "launch_pdl" for field in fields(CUDAOptions))
    )


def overlap(is_overlapped: bool) -> dict[str, bool]:
    """Options of a launch; older versions of Triton don't know this one."""
    return {"launch_pdl": True} if is_overlapped else {}


def fit(block: int, size: int) -> int:
    """Halve a block until whole ones fill a size; 0 stays 0."""
    while block and size % block:
        block //= 2
    return block


def power_up_to(size: int) -> int:
    """The largest power of two up to a size; 0 of 0."""
    return 1 << size.bit_length() >> 1


def begin(codes: Tensor, table: Tensor, gain: Tensor, rows: Rows) -> None:
    """Look up codes `(rows,)` in a table `(codes, hidden)`; `gain` is the first norm's weights."""
    (count, hidden), parts = rows.x.shape, rows.squares.shape[0]
    _begin[(count,)](
        codes, table, gain, rows.x, rows.ready, rows.squares, codes.stride(0), K=hidden,
        BLOCK=triton.next_power_of_2(hidden), PARTS=parts, PARTS_UP=triton.next_power_of_2(parts),
        STRIDE=rows.squares.shape[1], IS_OVERLAPPED=rows.is_overlapped, **overlap(rows.is_overlapped),
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
    parts = rows.squares.shape[0] if eps is not None else 0
    _multiply[(triton.cdiv(count, rows.block), triton.cdiv(outputs, blocks.n))](
        x, matrix.weight, matrix.scale, matrix.zero, rows.squares, y, gain, rows.ready, rows.squares,
        rows.count, count, eps or 0.0,
        N=outputs, K=inputs, BLOCK_M=rows.block, BLOCK_N=blocks.n, BLOCK_K=block_k, SLICES=slices,
        AHEAD=power_up_to(min(blocks.ahead, stored)), PARTS=parts,
        PARTS_UP=triton.next_power_of_2(max(parts, 1)), STRIDE=rows.squares.shape[1], BITS=matrix.bits,
        IS_GATED=is_gated, IS_ADDED=gain is not None, IS_COUNTED=rows.count is not None,
        PRECISION="ieee" if x.dtype is torch.float32 else "tf32", IS_OVERLAPPED=rows.is_overlapped,
        num_warps=blocks.warps, num_stages=blocks.stages, **overlap(rows.is_overlapped),
    )  # fmt: skip
