"""What happens to rows between the products of the flow decoder on a GPU: norms, columns of the past, noise.

A row is a frame of a chunk; a program takes one. Two rows before each chunk's first hold the columns of the
past, which convolutions read like any other rows. Imported on CUDA only.
"""

from __future__ import annotations

import triton
import triton.language as tl

from stepaudiod.editx.decoder.attention import head_norm
from stepaudiod.editx.decoder.products import rounded, tanh
from stepaudiod.editx.decoder.table import (
    CACHE_COLUMNS,
    CODED,
    COLUMNS,
    CONDITION,
    CONDITION_FRAMES,
    FRAMES,
    OWN,
    OWN_COUNT,
    OWN_SIZE,
    POSITION,
    SEED,
    SPEAKER,
    WIDTH,
)
from stepaudiod.editx.philox_kernels import normal


@triton.jit
def _normed(x, SIZE: tl.constexpr, eps):
    x -= tl.sum(x, 0) / SIZE
    return x * tl.rsqrt(tl.sum(x * x, 0) / SIZE + eps)


@triton.jit
def _columns(part_ptr, step, block, depth, conv, guided, SIZE: tl.constexpr, dtype: tl.constexpr):
    """One convolution's part of (steps, depth, 2 convolutions, 2 of guidance, 2, SIZE)."""
    at = (((step * depth + block) * 2 + conv) * 2 + guided) * 2 * SIZE
    return tl.load(part_ptr + COLUMNS).to(tl.pointer_type(dtype)) + at


@triton.jit(do_not_specialize=["rows", "block", "depth"])
def between(
    x_ptr, y_ptr, vectors_ptr, kept_ptr, parts_ptr, places_ptr, step_ptr, qkv_ptr, norms_ptr,
    stride, rows, block, depth,
    PAST: tl.constexpr, KEPT: tl.constexpr, IS_MISH: tl.constexpr, HAS_KEYS: tl.constexpr,
    SIZE: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """Y = norm(x), modulated by the step's shift and scale, or of a convolution's norm and Mish.

    PAST: y is the input of this convolution, and gets the columns of the past. KEPT: `kept` was the input of
    this one, whose last columns are stored. HAS_KEYS: keys and values in `qkv` are written to the ring.
    """
    row = tl.program_id(0)
    guided = row // rows
    place = row - guided * rows
    slot, frame = tl.load(places_ptr + 2 * place), tl.load(places_ptr + 2 * place + 1)
    if slot < 0:
        return
    part_ptr = parts_ptr + slot * WIDTH
    step = tl.load(step_ptr)
    i = tl.arange(0, SIZE)
    dtype: tl.constexpr = y_ptr.dtype.element_ty
    if frame < 0:
        if PAST >= 0:
            columns = _columns(part_ptr, step, block, depth, PAST, guided, SIZE, dtype)
            tl.store(y_ptr + row * SIZE + i, tl.load(columns + (frame + 2) * SIZE + i))
        return
    x = tl.load(x_ptr + row * SIZE + i)
    if IS_MISH:
        x = _normed(x, SIZE, 1e-5) * tl.load(vectors_ptr + i) + tl.load(vectors_ptr + SIZE + i)
        x *= tanh(tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0)))))
    else:
        vectors_ptr += step * stride + i
        x = _normed(x, SIZE, 1e-6) * (1.0 + tl.load(vectors_ptr + SIZE)) + tl.load(vectors_ptr)
    tl.store(y_ptr + row * SIZE + i, rounded(x, dtype))
    frames = tl.load(part_ptr + FRAMES)
    if KEPT >= 0:  # noqa: SIM102 (known when it is compiled)
        if frame >= frames - 2:
            columns = _columns(part_ptr, step, block, depth, KEPT, guided, SIZE, dtype)
            tl.store(columns + (frame - frames + 2) * SIZE + i, tl.load(kept_ptr + row * SIZE + i))
    if HAS_KEYS:
        size = tl.load(part_ptr + OWN_SIZE)
        if frame >= frames - size:
            head, d = tl.arange(0, HEADS)[:, None], tl.arange(0, HEAD)
            k_ptr = qkv_ptr + row * (3 * SIZE) + SIZE + head * HEAD + d[None]
            k = head_norm(
                tl.load(k_ptr), tl.load(norms_ptr + 2 * HEAD + d), tl.load(norms_ptr + 3 * HEAD + d), HEAD
            )
            at = (tl.load(part_ptr + OWN_COUNT) + frame) % size
            layer = (step * depth + block) * 4 + guided
            own_ptr = tl.load(part_ptr + OWN).to(tl.pointer_type(dtype))
            own_ptr += ((layer * HEADS + head) * size + at) * HEAD + d[None]
            tl.store(own_ptr, k.to(dtype))
            tl.store(own_ptr + 2 * HEADS * size * HEAD, tl.load(k_ptr + SIZE))


@triton.jit
def layer_norm(
    x_ptr, y_ptr, wide_ptr, weight_ptr, bias_ptr, places_ptr, codes_ptr, eps, scale,
    SIZE: tl.constexpr, IS_WIDE: tl.constexpr, HAS_CODES: tl.constexpr,
):  # fmt: skip
    """y, and in float32 `wide`: norm(x) times a scale; zeros where there is no code."""
    row = tl.program_id(0)
    if tl.load(places_ptr + 2 * row) < 0:
        return
    i = tl.arange(0, SIZE)
    x = _normed(tl.load(x_ptr + row * SIZE + i), SIZE, eps)
    x = (x * tl.load(weight_ptr + i) + tl.load(bias_ptr + i)) * scale
    if HAS_CODES:
        x = tl.where(tl.load(codes_ptr + 2 * row) < 0, 0.0, x)
    tl.store(y_ptr + row * SIZE + i, rounded(x, y_ptr.dtype.element_ty))
    if IS_WIDE:
        tl.store(wide_ptr + row * SIZE + i, x)


@triton.jit
def embed(codes_ptr, embeddings_ptr, y_ptr, HALF: tl.constexpr):
    """Both codes of a frame at 25 Hz, looked up in one table."""
    row, i = tl.program_id(0), tl.arange(0, HALF)
    for column in tl.static_range(2):
        code = tl.maximum(tl.load(codes_ptr + 2 * row + column), 0)
        x = tl.load(embeddings_ptr + code * HALF + i)
        tl.store(y_ptr + (2 * row + column) * HALF + i, x.to(y_ptr.dtype.element_ty))


@triton.jit
def exchange(x_ptr, parts_ptr, WHICH: tl.constexpr, IS_STORED: tl.constexpr, SIZE: tl.constexpr):
    """A convolution's columns of the past: into the two rows before a chunk, or from its last two."""
    part_ptr = parts_ptr + tl.program_id(0) * WIDTH
    frames = tl.load(part_ptr + FRAMES) // 2
    if frames == 0:
        return
    i = tl.arange(0, 2 * SIZE)
    first = tl.load(part_ptr + CODED)
    columns = tl.load(part_ptr + CACHE_COLUMNS).to(tl.pointer_type(x_ptr.dtype.element_ty))
    columns += WHICH * 2 * SIZE + i
    if IS_STORED:
        tl.store(columns, tl.load(x_ptr + (first + frames - 2) * SIZE + i))
    else:
        tl.store(x_ptr + (first - 2) * SIZE + i, tl.load(columns))


@triton.jit(do_not_specialize=["rows"])
def begin(
    mu_ptr, mel_ptr, inputs_ptr, parts_ptr, places_ptr, rows,
    STREAM: tl.constexpr, MELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The solver's noise, and the inputs of both rows of guidance: noise, conditions, or zeros for these."""
    row = tl.program_id(0)
    slot, frame = tl.load(places_ptr + 2 * row), tl.load(places_ptr + 2 * row + 1)
    if slot < 0 or frame < 0:
        return
    part_ptr = parts_ptr + slot * WIDTH
    i = tl.arange(0, BLOCK)
    is_mel = i < MELS
    number = (tl.load(part_ptr + POSITION) + frame).to(tl.int32) * MELS + i
    noise = normal(tl.load(part_ptr + SEED), STREAM, number)
    mu = tl.load(mu_ptr + row * MELS + i, mask=is_mel, other=0.0)
    speaker_ptr = tl.load(part_ptr + SPEAKER).to(tl.pointer_type(tl.float32))
    speaker = tl.load(speaker_ptr + i, mask=is_mel, other=0.0)
    is_known = is_mel & (frame < tl.load(part_ptr + CONDITION_FRAMES))
    known_ptr = tl.load(part_ptr + CONDITION).to(tl.pointer_type(tl.float32)) + frame * MELS
    known = tl.load(known_ptr + i, mask=is_known, other=0.0)
    tl.store(mel_ptr + row * MELS + i, noise, mask=is_mel)
    dtype: tl.constexpr = inputs_ptr.dtype.element_ty
    to = inputs_ptr + row * 4 * MELS + i
    tl.store(to, noise.to(dtype), mask=is_mel)
    tl.store(to + MELS, rounded(mu, dtype), mask=is_mel)
    tl.store(to + 2 * MELS, rounded(speaker, dtype), mask=is_mel)
    tl.store(to + 3 * MELS, rounded(known, dtype), mask=is_mel)
    to += rows * 4 * MELS
    tl.store(to, noise.to(dtype), mask=is_mel)
    for part in tl.static_range(1, 4):
        tl.store(to + part * MELS, tl.zeros((BLOCK,), dtype), mask=is_mel)


@triton.jit(do_not_specialize=["rows"])
def advance(
    velocity_ptr, mel_ptr, inputs_ptr, places_ptr, times_ptr, step_ptr, rows,
    GUIDANCE: tl.constexpr, MELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One Euler step of the mel, and the next step's inputs."""
    row = tl.program_id(0)
    slot, frame = tl.load(places_ptr + 2 * row), tl.load(places_ptr + 2 * row + 1)
    if slot < 0 or frame < 0:
        return
    i = tl.arange(0, BLOCK)
    is_mel, at = i < MELS, row * MELS + i
    guided = tl.load(velocity_ptr + at, mask=is_mel, other=0.0)
    free = tl.load(velocity_ptr + rows * MELS + at, mask=is_mel, other=0.0)
    step = tl.load(times_ptr + tl.load(step_ptr))
    mel = tl.load(mel_ptr + at, mask=is_mel, other=0.0)
    mel += step * ((1.0 + GUIDANCE) * guided - GUIDANCE * free)
    tl.store(mel_ptr + at, mel, mask=is_mel)
    to = inputs_ptr + row * 4 * MELS + i
    tl.store(to, rounded(mel, inputs_ptr.dtype.element_ty), mask=is_mel)
    tl.store(to + rows * 4 * MELS, rounded(mel, inputs_ptr.dtype.element_ty), mask=is_mel)
