"""`philox` in Triton, for other kernels and as one of its own. Imported on CUDA only.

Seeds are int64 or uint64 scalars or blocks, all other integers int32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def uniform(bits):
    """Words to float64 numbers above 0 and below 1."""
    return ((bits >> 9).to(tl.float64) + 0.5) * (1.0 / 8388608.0)


@triton.jit
def gumbel(seed, position, code):
    """Gumbel noise of codes at a position, float32; logarithms of float32 would be rough near 1."""
    zero = code * 0
    bits, _, _, _ = tl.philox(seed, code, zero + position, zero, zero)
    return (-tl.log(-tl.log(uniform(bits)))).to(tl.float32)


@triton.jit
def normal(seed, stream, number):
    """Normal numbers of a stream, float32: `number` is a block of their indices."""
    zero = number * 0
    a, b, c, d = tl.philox(seed, number // 4, zero, zero + stream, zero + 1)
    is_late = number % 4 >= 2
    radius = tl.sqrt(-2.0 * tl.log(uniform(tl.where(is_late, c, a))))
    angle = 6.283185307179586 * uniform(tl.where(is_late, d, b))
    return (radius * tl.where(number % 2 == 1, tl.sin(angle), tl.cos(angle))).to(tl.float32)


@triton.jit
def _fill_normal(
    y_ptr, seed: tl.uint64, stream: tl.int32, first: tl.int32, count: tl.int32, SIZE: tl.constexpr
):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y_ptr + at, normal(seed, stream, first + at), mask=at < count)


def fill_normal(y: Tensor, seed: int, stream: int, first: int) -> None:
    """Fill a contiguous float32 tensor with a stream's numbers from `first` on."""
    count, signed = y.numel(), (stream & 0xFFFFFFFF) - ((stream & 0x80000000) << 1)
    _fill_normal[(triton.cdiv(count, BLOCK),)](y, seed & 0xFFFFFFFFFFFFFFFF, signed, first, count, SIZE=BLOCK)
