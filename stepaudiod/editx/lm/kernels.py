"""The language model's step on a GPU: four Triton kernels and their launchers. Imported on CUDA only.

A step of one sequence reads every weight once and does little else, so the kernels are memory-bound:

    _begin      looks up the last codes
    _multiply   rows times a matrix; after a norm, or followed by a gate or the residual
    _attend     one split of one sequence's keys, for the heads that share them; the bias from positions
    _combine    the splits of one head into its result

A norm is spread over three kernels, so that none waits for it: the kernel that makes a row also writes it
times the norm's weights, and each program the sum of squares of its part; the next `_multiply` reads the
former, and scales its result by the root of all squares.

Each kernel computes 16 rows, used or not: a tensor core takes 16 anyway. So a row's last bits never depend on
its neighbours, and 16 sequences take the time of one. Independent of modules and sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
SPLIT = 64
"""Keys per program of `_attend`."""
PART = 32
"""Outputs of a row per program of `_multiply`, whose squares are summed together."""


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

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs, unpacked."""
        outputs, inputs = self.weight.shape
        return outputs, 2 * inputs if self.bits == 4 else inputs


@dataclass(frozen=True)
class Rows:
    """The activations between layers.

    Args:
        x: `(rows, hidden)`.
        ready: the same times the next norm's weights.
        squares: `(hidden / 32, 16)` float32, sums over each part of each row; see `PART`.
    """

    x: Tensor
    ready: Tensor
    squares: Tensor

    @classmethod
    def new(cls, rows: int, hidden: int, device: torch.device, dtype: torch.dtype) -> Rows:
        x = torch.empty(rows, hidden, device=device, dtype=dtype)
        parts = triton.cdiv(hidden, PART)
        return cls(x, torch.empty_like(x), torch.zeros(parts, ROWS, device=device))


@triton.jit
def _begin(
    codes_ptr, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr,
    K: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr,
):  # fmt: skip
    """Look up one row's code."""
    row, k = tl.program_id(0), tl.arange(0, BLOCK)
    is_value = k < K
    x = tl.load(table_ptr + tl.load(codes_ptr + row) * K + k, mask=is_value, other=0.0)
    gain = tl.load(gain_ptr + k, mask=is_value, other=0.0)
    tl.store(x_ptr + row * K + k, x, mask=is_value)
    tl.store(ready_ptr + row * K + k, x * gain, mask=is_value)
    part = tl.arange(0, PARTS_UP)
    total = tl.sum(x.to(tl.float32) * x.to(tl.float32), 0)
    tl.store(squares_ptr + part * 16 + row, tl.where(part == 0, total, 0.0), mask=part < PARTS)


@triton.jit
def _weights(
    w_ptr,
    scale_ptr,
    zero_ptr,
    n,
    start,
    real,
    K,
    BITS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    dtype: tl.constexpr,
):
    """A block of a matrix in the result's dtype; of int4 one of each half."""
    k = start + tl.arange(0, BLOCK_K)
    if BITS == 4:
        both = tl.load(w_ptr + n[:, None] * (K // 2) + k[None], mask=real[:, None], other=0)
        low = _scaled(both & 15, scale_ptr, zero_ptr, n, start, real, K, BLOCK_K)
        high = _scaled(both >> 4, scale_ptr, zero_ptr, n, K // 2 + start, real, K, BLOCK_K)
        return low.to(dtype), high.to(dtype)
    else:
        w = tl.load(w_ptr + n[:, None] * K + k[None], mask=real[:, None], other=0).to(dtype)
        return w, w


@triton.jit
def _scaled(levels, scale_ptr, zero_ptr, n, start, real, K, BLOCK_K: tl.constexpr):
    """int4 levels (n, BLOCK_K) to weights, a scale and a zero per 64 inputs."""
    group = n[:, None] * (K // 64) + (start // 64 + tl.arange(0, BLOCK_K // 64))[None]
    scale = tl.load(scale_ptr + group, mask=real[:, None], other=0.0).to(tl.float32)
    zero = tl.load(zero_ptr + group, mask=real[:, None], other=0.0).to(tl.float32)
    grouped = levels.to(tl.float32).reshape(n.shape[0], BLOCK_K // 64, 64)
    return (grouped * scale[:, :, None] + zero[:, :, None]).reshape(n.shape[0], BLOCK_K)


@triton.jit(do_not_specialize=["rows"])
def _multiply(
    x_ptr, w_ptr, scale_ptr, zero_ptr, squares_ptr, y_ptr, gain_ptr, ready_ptr, parts_ptr, rows, eps,
    N: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr,
    PARTS_UP: tl.constexpr, BITS: tl.constexpr, IS_GATED: tl.constexpr, IS_ADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """X (rows, K) times w (N, K) transposed; if gated, w is (2 N, K): gates, then values."""
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    row = tl.arange(0, 16)
    is_row = (row < rows)[:, None]
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = n < N
    STORED: tl.constexpr = K // 2 if BITS == 4 else K
    first = tl.zeros((16, BLOCK_N), tl.float32)
    second = tl.zeros((16, BLOCK_N), tl.float32)
    for start in range(0, STORED, BLOCK_K):
        w, w_high = _weights(w_ptr, scale_ptr, zero_ptr, n, start, real, K, BITS, BLOCK_K, dtype)
        at = x_ptr + row[:, None] * K + (start + tl.arange(0, BLOCK_K))[None]
        x = tl.load(at, mask=is_row, other=0.0)
        first = tl.dot(x, tl.trans(w), first, input_precision=PRECISION)
        if BITS == 4:
            x_high = tl.load(at + K // 2, mask=is_row, other=0.0)
            first = tl.dot(x_high, tl.trans(w_high), first, input_precision=PRECISION)
        if IS_GATED:
            w, w_high = _weights(w_ptr, scale_ptr, zero_ptr, n + N, start, real, K, BITS, BLOCK_K, dtype)
            second = tl.dot(x, tl.trans(w), second, input_precision=PRECISION)
            if BITS == 4:
                second = tl.dot(x_high, tl.trans(w_high), second, input_precision=PRECISION)
    if BITS == 8:
        first *= tl.load(scale_ptr + n, mask=real, other=0.0).to(tl.float32)[None]
        if IS_GATED:
            second *= tl.load(scale_ptr + n + N, mask=real, other=0.0).to(tl.float32)[None]
    if PARTS > 0:
        part = tl.arange(0, PARTS_UP)[:, None]
        squares = tl.sum(tl.load(squares_ptr + part * 16 + row[None], mask=part < PARTS, other=0.0), 0)
        root = tl.rsqrt(squares / K + eps)[:, None]
        first *= root
        second *= root
    if IS_GATED:
        gate = first.to(dtype).to(tl.float32)
        first = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * second.to(dtype).to(tl.float32)
    at = row[:, None] * N + n[None]
    mask = is_row & real[None]
    y = first.to(dtype)
    if IS_ADDED:
        y = (y.to(tl.float32) + tl.load(y_ptr + at, mask=mask, other=0.0).to(tl.float32)).to(dtype)
        tl.store(ready_ptr + at, y * tl.load(gain_ptr + n, mask=real, other=0.0)[None], mask=mask)
        tl.store(parts_ptr + tl.program_id(0) * 16 + row, tl.sum(y.to(tl.float32) * y.to(tl.float32), 1))
    tl.store(y_ptr + at, y, mask=mask)


@triton.jit
def _attend(
    qkv_ptr, keys_ptr, values_ptr, slopes_ptr, starts_ptr, positions_ptr, part_ptr, top_ptr, sum_ptr, pool,
    GROUPS: tl.constexpr, SHARED: tl.constexpr, HEAD: tl.constexpr, LENGTH: tl.constexpr,
    SPLITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One split of a row's keys and values for the heads of one group; also stores the newest."""
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    position = tl.load(positions_ptr + row)
    if split * LENGTH > position:
        return
    d, h, key = tl.arange(0, HEAD), tl.arange(0, 16), split * LENGTH + tl.arange(0, LENGTH)
    first = (group.to(tl.int64) * pool + tl.load(starts_ptr + row)) * HEAD
    where = first + key[:, None] * HEAD + d[None]
    is_old, is_new = (key < position)[:, None], (key == position)[:, None]
    k = tl.load(keys_ptr + where, mask=is_old, other=0.0)
    v = tl.load(values_ptr + where, mask=is_old, other=0.0)
    row_ptr = qkv_ptr + row * (GROUPS * SHARED + 2 * GROUPS) * HEAD
    new = row_ptr + GROUPS * SHARED * HEAD + group * HEAD + d
    new_key, new_value = tl.load(new), tl.load(new + GROUPS * HEAD)
    is_head, head = h < SHARED, group * SHARED + h
    q = tl.load(row_ptr + head[:, None] * HEAD + d[None], mask=is_head[:, None], other=0.0)
    slope = tl.load(slopes_ptr + head, mask=is_head, other=0.0)[:, None]
    k = tl.where(is_new, new_key[None], k)
    v = tl.where(is_new, new_value[None], v).to(tl.float32)
    distance = tl.maximum(position - key, 0).to(tl.float32)[None]
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (HEAD**-0.5) - slope * tl.sqrt(distance)
    scores = tl.where((key <= position)[None], scores, -float("inf"))
    top = tl.max(scores, 1)
    weights = tl.exp(scores - top[:, None])
    mixed = tl.dot(weights, v, input_precision=PRECISION)
    if (split + 1) * LENGTH > position:  # the last split holds the newest
        tl.store(keys_ptr + first + position * HEAD + d, new_key)
        tl.store(values_ptr + first + position * HEAD + d, new_value)
    out = (row * GROUPS * SHARED + head) * SPLITS + split
    tl.store(top_ptr + out, top, mask=is_head)
    tl.store(sum_ptr + out, tl.sum(weights, 1), mask=is_head)
    tl.store(part_ptr + out[:, None] * HEAD + d[None], mixed, mask=is_head[:, None])


@triton.jit
def _combine(
    part_ptr, top_ptr, sum_ptr, positions_ptr, y_ptr,
    HEADS: tl.constexpr, HEAD: tl.constexpr, LENGTH: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """The splits of one head of one row, each weighted by its sum."""
    row, head = tl.program_id(0), tl.program_id(1)
    s, d = tl.arange(0, SPLITS), tl.arange(0, HEAD)
    used = s <= tl.load(positions_ptr + row) // LENGTH
    at = (row * HEADS + head) * SPLITS + s
    top = tl.load(top_ptr + at, mask=used, other=-float("inf"))
    weight = tl.exp(top - tl.max(top, 0))
    total = tl.sum(tl.load(sum_ptr + at, mask=used, other=0.0) * weight, 0)
    part = tl.load(part_ptr + at[:, None] * HEAD + d[None], mask=used[:, None], other=0.0)
    mixed = tl.sum(part * weight[:, None], 0) / total
    tl.store(y_ptr + (row * HEADS + head) * HEAD + d, mixed.to(y_ptr.dtype.element_ty))


def begin(codes: Tensor, table: Tensor, gain: Tensor, rows: Rows) -> None:
    """Look up codes `(rows,)` in a table `(codes, hidden)`; `gain` is the first norm's weights."""
    count, hidden = rows.x.shape
    parts = rows.squares.shape[0]
    _begin[(count,)](
        codes, table, gain, rows.x, rows.ready, rows.squares, K=hidden, BLOCK=triton.next_power_of_2(hidden),
        PARTS=parts, PARTS_UP=triton.next_power_of_2(parts),
    )  # fmt: skip


def multiply(
    x: Tensor | Rows,
    matrix: Matrix,
    y: Tensor | Rows,
    *,
    eps: float = 0.0,
    gain: Tensor | None = None,
    is_gated: bool = False,
    blocks: Blocks | None = None,
) -> None:
    """Multiply by a matrix.

    Args:
        x: `(rows, inputs)`, at most 16; of `Rows`, the norm is multiplied.
        matrix: the weight; if gated, gates above values.
        y: `(rows, outputs)`, written to; to `Rows`, the result is added.
        eps: of the norm before.
        gain: weights of the norm after.
        is_gated: the result is silu(gate) * value.
        blocks: for tuning.
    """
    source = x.ready if isinstance(x, Rows) else x
    target = y.x if isinstance(y, Rows) else y
    (rows, inputs), outputs = source.shape, target.shape[1]
    blocks = blocks or Blocks.best(inputs, matrix.bits, is_gated, source.dtype)
    parts = x.squares.shape[0] if isinstance(x, Rows) else 0
    ready, squares = (y.ready, y.squares) if isinstance(y, Rows) else (None, None)
    _multiply[(triton.cdiv(outputs, blocks.n),)](
        source, matrix.weight, matrix.scale, matrix.zero, x.squares if isinstance(x, Rows) else None, target,
        gain, ready, squares, rows, eps,
        N=outputs, K=inputs, BLOCK_N=blocks.n, BLOCK_K=blocks.k, PARTS=parts,
        PARTS_UP=triton.next_power_of_2(max(parts, 1)), BITS=matrix.bits, IS_GATED=is_gated,
        IS_ADDED=isinstance(y, Rows), PRECISION="ieee" if source.dtype is torch.float32 else "tf32",
        num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip


@dataclass(frozen=True)
class Blocks:
    """Outputs and stored inputs per program of `_multiply`, its warps, and blocks in flight."""

    n: int
    k: int
    warps: int
    stages: int

    @classmethod
    def best(cls, inputs: int, bits: int, is_gated: bool, dtype: torch.dtype) -> Blocks:
        """The fastest on an H100."""
        stored = inputs // 2 if bits == 4 else inputs
        k = next(size for size in (512, 256, 128, 64, 32, 16) if stored % size == 0)
        if dtype is torch.float32:
            return cls(PART, min(k, 64), 4, 2)
        return cls(PART, min(k, 256), 4, 3) if is_gated else cls(PART, k, 4, 4)


@dataclass(frozen=True)
class Workspace:
    """The buffers between the two kernels of attention, allocated once.

    Args:
        part: `(rows, heads, splits, head)` float32.
        top: `(rows, heads, splits)` float32.
        total: likewise.
    """

    part: Tensor
    top: Tensor
    total: Tensor

    @classmethod
    def new(cls, rows: int, heads: int, head_size: int, length: int, device: torch.device) -> Workspace:
        """Allocate them for up to `length` keys."""
        splits = triton.next_power_of_2(triton.cdiv(length, SPLIT))
        part = torch.empty(rows, heads, splits, head_size, device=device)
        return cls(part, torch.empty_like(part[..., 0]), torch.empty_like(part[..., 0]))


def attend(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    slopes: Tensor,
    starts: Tensor,
    positions: Tensor,
    scratch: Workspace,
    y: Tensor,
) -> None:
    """Attend from one new position of each row, and store its key and value in the pool.

    Args:
        qkv: `(rows, (heads + 2 * groups) * head)`.
        keys: this layer's part of the pool, `(groups, pool, head)`.
        values: likewise.
        slopes: `(heads,)` float32.
        starts: `(rows,)` int64, each row's first position in the pool.
        positions: `(rows,)` int64, of the new token.
        scratch: for the same number of rows.
        y: `(rows, heads * head)`, written to.
    """
    rows = qkv.shape[0]
    groups, pool, head = keys.shape
    heads, splits = slopes.shape[0], scratch.top.shape[2]
    _attend[(rows, groups, splits)](
        qkv, keys, values, slopes, starts, positions, scratch.part, scratch.top, scratch.total, pool,
        GROUPS=groups, SHARED=heads // groups, HEAD=head, LENGTH=SPLIT, SPLITS=splits,
        PRECISION="ieee" if qkv.dtype is torch.float32 else "tf32", num_warps=4,
    )  # fmt: skip
    _combine[(rows, heads)](
        scratch.part, scratch.top, scratch.total, positions, y,
        HEADS=heads, HEAD=head, LENGTH=SPLIT, SPLITS=splits, num_warps=2,
    )  # fmt: skip
