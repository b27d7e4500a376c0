"""What the language model's kernels share: overlap, prefetching, layouts and sums. Imported on CUDA only."""

from __future__ import annotations

from dataclasses import fields

import torch
import triton
import triton.language as tl
from triton.backends.nvidia.compiler import CUDAOptions


@triton.jit
def wait(IS_OVERLAPPED: tl.constexpr):
    """Wait for the kernel before: all before that one have ended by then."""
    if IS_OVERLAPPED:
        tl.extra.cuda.gdc_wait()


@triton.jit
def start_next(IS_OVERLAPPED: tl.constexpr):
    """Let the next kernel start, once all programs have come here. Comes after `wait`."""
    if IS_OVERLAPPED:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def prefetch(pointers):
    """Bring 128 bytes from each address to the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def prefetch_weights(w_ptr, n, STORED: tl.constexpr, AHEAD: tl.constexpr):
    """The first inputs of some outputs."""
    LINE: tl.constexpr = 1024 // w_ptr.dtype.element_ty.primitive_bitwidth
    if AHEAD >= LINE:
        prefetch(w_ptr + n[:, None] * STORED + (tl.arange(0, AHEAD // LINE) * LINE)[None])


@triton.jit
def sum_pairs(x, SIZE: tl.constexpr):
    """Sums (rows,) over so many columns, a power of 2, in an order that doesn't depend on the rows."""
    for level in tl.static_range(0, 12):
        if SIZE >> (level + 1) > 0:
            x = tl.sum(x.reshape(x.shape[0], SIZE >> (level + 1), 2), 2)
    return x.reshape(x.shape[0])


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


def can_overlap(device: torch.device) -> bool:
    """Whether kernels of this GPU and this Triton can start before the one before has ended."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= (9, 0)
        and any(field.name == "launch_pdl" for field in fields(CUDAOptions))
    )


def options(is_overlapped: bool) -> dict[str, bool]:
    """Options of a launch; older versions of Triton don't know the first one."""
    return ({"launch_pdl": True} if is_overlapped else {}) | {"enable_fp_fusion": False}


def fit(block: int, size: int) -> int:
    """Halve a block until whole ones fill a size; 0 stays 0."""
    while block and size % block:
        block //= 2
    return block


def power_up_to(size: int) -> int:
    """The largest power of two up to a size; 0 of 0."""
    return 1 << size.bit_length() >> 1
