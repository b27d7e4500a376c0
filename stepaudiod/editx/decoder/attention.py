"""Attention of the flow decoder on a GPU, over keys and values that stay where they are.

    keys    the stream's own │ the voice's, shared │ the chunk's

Chunks of different streams and lengths are computed at once; a program takes up to 64 frames of one chunk and
one head. Their keys are read by address, in whole blocks of each part, so the result for a frame doesn't
depend on other chunks. Imported on CUDA only.
"""

from __future__ import annotations

import triton
import triton.language as tl

from stepaudiod.editx.decoder.table import (
    CACHE,
    CACHE_COUNT,
    CACHE_PROMPT,
    CACHE_SIZE,
    CODED,
    FIRST,
    FRAMES,
    OWN,
    OWN_COUNT,
    OWN_SIZE,
    PROMPT,
    PROMPT_FRAMES,
    WIDTH,
)

TILE = 64
"""Frames per program."""
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def head_norm(x, gain, bias, HEAD: tl.constexpr):
    """Norm of each row (rows, HEAD)."""
    x = x.to(tl.float32)
    x -= (tl.sum(x, 1) / HEAD)[:, None]
    return x * tl.rsqrt(tl.sum(x * x, 1) / HEAD + 1e-5)[:, None] * gain[None] + bias[None]


@triton.jit
def _address(parts_ptr, slot, field, dtype: tl.constexpr):
    return tl.multiple_of(tl.load(parts_ptr + slot * WIDTH + field).to(tl.pointer_type(dtype)), 16)


@triton.jit
def _mix(scores, v, top, total, mixed, is_key, PRECISION: tl.constexpr):
    """Take in a block of keys: scores (queries, keys) to base 2, values (keys, HEAD)."""
    scores = tl.where(is_key[None], scores, -float("inf"))
    new = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - new[:, None])
    scale = tl.exp2(top - new)
    total = total * scale + tl.sum(weights, 1)
    mixed = tl.dot(weights.to(v.dtype), v, mixed * scale[:, None], input_precision=PRECISION)
    return new, total, mixed


@triton.jit
def _take(
    q, k_ptr, v_ptr, stride, count, top, total, mixed, gain, bias,
    IS_NORMED: tl.constexpr, BLOCK: tl.constexpr, HEAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take in `count` keys, `stride` values apart; those that are no cache are still to be normalised."""
    d = tl.arange(0, HEAD)
    for start in range(0, count, BLOCK):
        key = start + tl.arange(0, BLOCK)
        is_key = key < count
        where = key[:, None] * stride + d[None]
        k = tl.load(k_ptr + where, mask=is_key[:, None], other=0.0)
        v = tl.load(v_ptr + where, mask=is_key[:, None], other=0.0)
        if not IS_NORMED:
            k = head_norm(k, gain, bias, HEAD).to(v.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        top, total, mixed = _mix(scores, v, top, total, mixed, is_key, PRECISION)
    return top, total, mixed


@triton.jit(do_not_specialize=["rows", "block", "depth"])
def attend(
    qkv_ptr, y_ptr, parts_ptr, tiles_ptr, step_ptr, norms_ptr, rows, block, depth,
    HEADS: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The estimator's attention in one block.

    The two rows of guidance are `rows` apart in `qkv` (…, 3 * HEADS * HEAD). `tiles` (n, 2) has a slot, or
    -1, and a first frame; `norms` (4, HEAD) gain and bias for queries, and for keys. The caches are (steps,
    depth, 2, 2 rows of guidance, HEADS, frames, HEAD).
    """
    slot, begin = tl.load(tiles_ptr + 2 * tl.program_id(0)), tl.load(tiles_ptr + 2 * tl.program_id(0) + 1)
    if slot < 0:
        return
    head, guided = tl.program_id(1), tl.program_id(2)
    dtype: tl.constexpr = qkv_ptr.dtype.element_ty
    SIZE: tl.constexpr = HEADS * HEAD
    part_ptr = parts_ptr + slot * WIDTH
    frames = tl.load(part_ptr + FRAMES)
    first = tl.load(part_ptr + FIRST) + guided * rows
    d = tl.arange(0, HEAD)
    frame = begin + tl.arange(0, BLOCK)
    is_frame = (frame < frames)[:, None]
    chunk_ptr = qkv_ptr + first * (3 * SIZE) + head * HEAD
    q = tl.load(chunk_ptr + frame[:, None] * (3 * SIZE) + d[None], mask=is_frame, other=0.0)
    q = head_norm(q, tl.load(norms_ptr + d), tl.load(norms_ptr + HEAD + d), HEAD)
    q = (q * (LOG2_E * HEAD**-0.5)).to(dtype)
    gain, bias = tl.load(norms_ptr + 2 * HEAD + d), tl.load(norms_ptr + 3 * HEAD + d)
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, HEAD), tl.float32)
    layer = (tl.load(step_ptr) * depth + block) * 4 + guided  # of keys; that of values is two further

    size = tl.load(part_ptr + OWN_SIZE)
    count = tl.minimum(tl.load(part_ptr + OWN_COUNT), size).to(tl.int32)
    own_ptr = _address(parts_ptr, slot, OWN, dtype)
    top, total, mixed = _take(
        q, own_ptr + (layer * HEADS + head) * size * HEAD,
        own_ptr + ((layer + 2) * HEADS + head) * size * HEAD, HEAD, count,
        top, total, mixed, gain, bias, True, BLOCK, HEAD, PRECISION,
    )  # fmt: skip
    size = tl.load(part_ptr + PROMPT_FRAMES)
    prompt_ptr = _address(parts_ptr, slot, PROMPT, dtype)
    top, total, mixed = _take(
        q, prompt_ptr + (layer * HEADS + head) * size * HEAD,
        prompt_ptr + ((layer + 2) * HEADS + head) * size * HEAD,
        HEAD, size.to(tl.int32), top, total, mixed, gain, bias, True, BLOCK, HEAD, PRECISION,
    )  # fmt: skip
    top, total, mixed = _take(
        q, chunk_ptr + SIZE, chunk_ptr + 2 * SIZE, 3 * SIZE, frames.to(tl.int32), top, total, mixed,
        gain, bias, False, BLOCK, HEAD, PRECISION,
    )  # fmt: skip
    to = y_ptr + (first + frame[:, None]) * SIZE + head * HEAD + d[None]
    tl.store(to, (mixed / total[:, None]).to(dtype), mask=is_frame)


@triton.jit
def _frames_at(parts_ptr, slot, RATE: tl.constexpr):
    """A chunk at 25 Hz or twice that: its first row and frames, and those of the voice and the stream."""
    part_ptr = parts_ptr + slot * WIDTH
    first = tl.load(part_ptr + (CODED if RATE == 1 else FIRST))
    frames = tl.load(part_ptr + FRAMES) // (3 - RATE)
    prompt = tl.load(part_ptr + PROMPT_FRAMES) // (3 - RATE)
    return first, frames, prompt, tl.load(part_ptr + CACHE_COUNT) * RATE


@triton.jit
def turn(
    qkv_ptr, y_ptr, parts_ptr, tiles_ptr, weight_ptr, bias_ptr, table_ptr,
    RATE: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr,
    FREQUENCIES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a query multiplies the sinusoids of a key's position with: y (rows, HEADS, HEADS * HEAD).

    With relative positions a score has the term a · (sin w(i - j), cos w(i - j)), where a is the query
    times the positions' weights. That is (a turned by the angles of its own position i) · (sin wj, cos wj):
    a product with a table that all queries share. `weight` (HEADS, 2, HEAD, SIZE / 2) has the parts for
    sines and cosines; `table` (positions, SIZE) sines, then cosines.
    """
    slot, begin = tl.load(tiles_ptr + 2 * tl.program_id(0)), tl.load(tiles_ptr + 2 * tl.program_id(0) + 1)
    if slot < 0:
        return
    head = tl.program_id(1)
    SIZE: tl.constexpr = HEADS * HEAD
    HALF: tl.constexpr = SIZE // 2
    first, frames, prompt, count = _frames_at(parts_ptr, slot, RATE)
    d, f = tl.arange(0, HEAD), tl.program_id(2) * FREQUENCIES + tl.arange(0, FREQUENCIES)
    frame = begin + tl.arange(0, BLOCK)
    is_frame = (frame < frames)[:, None]
    row = first + frame[:, None]
    q = tl.load(qkv_ptr + row * (3 * SIZE) + head * HEAD + d[None], mask=is_frame, other=0.0)
    q = (q.to(tl.float32) + tl.load(bias_ptr + head * HEAD + d)[None]).to(qkv_ptr.dtype.element_ty)
    at = weight_ptr + (head * 2 * HEAD + d[:, None]) * HALF + f[None]
    of_sine = tl.dot(q, tl.load(at), input_precision=PRECISION)
    of_cosine = tl.dot(q, tl.load(at + HEAD * HALF), input_precision=PRECISION)
    angle = table_ptr + (prompt + count + frame[:, None]) * SIZE + f[None]
    sine = tl.load(angle, mask=is_frame, other=0.0).to(tl.float32)
    cosine = tl.load(angle + HALF, mask=is_frame, other=0.0).to(tl.float32)
    scale = LOG2_E * HEAD**-0.5
    to = y_ptr + (row * HEADS + head) * SIZE + f[None]
    dtype: tl.constexpr = y_ptr.dtype.element_ty
    tl.store(to, ((of_cosine * sine - of_sine * cosine) * scale).to(dtype), mask=is_frame)
    tl.store(to + HALF, ((of_sine * sine + of_cosine * cosine) * scale).to(dtype), mask=is_frame)


@triton.jit
def _take_relative(
    q, turned_ptr, is_frame, k_ptr, v_ptr, stride, count, table_ptr, top, total, mixed,
    BLOCK: tl.constexpr, HEAD: tl.constexpr, SIZE: tl.constexpr, FREQUENCIES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Take in `count` keys, whose positions' sinusoids begin at `table`."""
    d, f = tl.arange(0, HEAD), tl.arange(0, FREQUENCIES)
    for start in range(0, count, BLOCK):
        key = start + tl.arange(0, BLOCK)
        is_key = key < count
        where = key[:, None] * stride + d[None]
        k = tl.load(k_ptr + where, mask=is_key[:, None], other=0.0)
        v = tl.load(v_ptr + where, mask=is_key[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        for at in range(0, SIZE, FREQUENCIES):
            turned = tl.load(turned_ptr + at + f[None], mask=is_frame, other=0.0)
            sinusoids = tl.load(
                table_ptr + key[None] * SIZE + at + f[:, None], mask=is_key[None], other=0.0
            )  # (FREQUENCIES, BLOCK)
            scores = tl.dot(turned, sinusoids, scores, input_precision=PRECISION)
        top, total, mixed = _mix(scores, v, top, total, mixed, is_key, PRECISION)
    return top, total, mixed


@triton.jit(do_not_specialize=["layer"])
def attend_relative(
    qkv_ptr, y_ptr, turned_ptr, parts_ptr, tiles_ptr, bias_ptr, table_ptr, layer,
    RATE: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr,
    FREQUENCIES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The token encoder's attention in one layer; it also appends the chunk's keys and values to the cache.

    A cache has (2, HEADS, frames, HEAD) for each layer at 25 Hz, then for each at 50 Hz; `layer` counts in
    layers of 25 Hz. See `turn`.
    """
    slot, begin = tl.load(tiles_ptr + 2 * tl.program_id(0)), tl.load(tiles_ptr + 2 * tl.program_id(0) + 1)
    if slot < 0:
        return
    head = tl.program_id(1)
    dtype: tl.constexpr = qkv_ptr.dtype.element_ty
    SIZE: tl.constexpr = HEADS * HEAD
    first, frames, prompt, count = _frames_at(parts_ptr, slot, RATE)
    d = tl.arange(0, HEAD)
    frame = begin + tl.arange(0, BLOCK)
    is_frame = (frame < frames)[:, None]
    chunk_ptr = qkv_ptr + first * (3 * SIZE) + head * HEAD
    q = tl.load(chunk_ptr + frame[:, None] * (3 * SIZE) + d[None], mask=is_frame, other=0.0).to(tl.float32)
    q = ((q + tl.load(bias_ptr + head * HEAD + d)[None]) * (LOG2_E * HEAD**-0.5)).to(dtype)
    turned_ptr += ((first + frame[:, None]) * HEADS + head) * SIZE
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    mixed = tl.zeros((BLOCK, HEAD), tl.float32)

    voice_ptr = _address(parts_ptr, slot, CACHE_PROMPT, dtype)
    size = tl.load(parts_ptr + slot * WIDTH + PROMPT_FRAMES) // 2
    voice_ptr += layer * 2 * SIZE * size + head * prompt * HEAD
    top, total, mixed = _take_relative(
        q, turned_ptr, is_frame, voice_ptr, voice_ptr + SIZE * prompt, HEAD, prompt.to(tl.int32), table_ptr,
        top, total, mixed, BLOCK, HEAD, SIZE, FREQUENCIES, PRECISION,
    )  # fmt: skip
    cache_ptr = _address(parts_ptr, slot, CACHE, dtype)
    size = tl.load(parts_ptr + slot * WIDTH + CACHE_SIZE)
    cache_ptr += layer * 2 * SIZE * size + head * size * RATE * HEAD
    values_ptr = cache_ptr + SIZE * size * RATE
    top, total, mixed = _take_relative(
        q, turned_ptr, is_frame, cache_ptr, values_ptr, HEAD, count.to(tl.int32), table_ptr + prompt * SIZE,
        top, total, mixed, BLOCK, HEAD, SIZE, FREQUENCIES, PRECISION,
    )  # fmt: skip
    top, total, mixed = _take_relative(
        q, turned_ptr, is_frame, chunk_ptr + SIZE, chunk_ptr + 2 * SIZE, 3 * SIZE, frames.to(tl.int32),
        table_ptr + (prompt + count) * SIZE, top, total, mixed, BLOCK, HEAD, SIZE, FREQUENCIES, PRECISION,
    )  # fmt: skip
    to = y_ptr + (first + frame[:, None]) * SIZE + head * HEAD + d[None]
    tl.store(to, (mixed / total[:, None]).to(dtype), mask=is_frame)

    where = chunk_ptr + frame[:, None] * (3 * SIZE) + d[None]
    to = (count + frame[:, None]) * HEAD + d[None]
    tl.store(cache_ptr + to, tl.load(where + SIZE, mask=is_frame), mask=is_frame)
    tl.store(values_ptr + to, tl.load(where + 2 * SIZE, mask=is_frame), mask=is_frame)
