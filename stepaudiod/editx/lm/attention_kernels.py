"""The language model's attention over pages on a GPU. Imported on CUDA only.

    _attend         from one new position of each row, in a decode step; stores its key and value
    _store          a prompt's keys and values, before
    _attend_prompt  from 16 positions of a prompt

A key's distance lowers its score by slope * sqrt(distance). A row's or a tile's sequence is described by
int32 numbers, in which `pages` says where the sequence's positions are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from stepaudiod.editx.lm.config import PAGE
from stepaudiod.editx.lm.kernel_parts import options, start_next, wait
from stepaudiod.editx.lm.kernels import ROWS

TILE = 16
"""Positions of one prompt that are consecutive rows."""
CHUNK, SPLITS = 128, 4
"""A row's keys are split among so many programs, so many at a time. Fixed: sums depend on it."""
HEADS = 4
"""Heads per program of `_attend_prompt`."""


@triton.jit
def _load_keys(keys_ptr, values_ptr, pages_ptr, key, position, first, PAGE: tl.constexpr, HEAD: tl.constexpr):
    """Keys and values of positions below one."""
    page = tl.load(pages_ptr + key // PAGE, mask=key < position, other=0)
    where = (first + page * PAGE + key % PAGE)[:, None] * HEAD + tl.arange(0, HEAD)[None]
    k = tl.load(keys_ptr + where, mask=(key < position)[:, None], other=0.0)
    return k, tl.load(values_ptr + where, mask=(key < position)[:, None], other=0.0)


@triton.jit
def _add_keys(q, k, v, key, position, slope, top, total, mixed, HEAD: tl.constexpr, PRECISION: tl.constexpr):
    """Add keys and values to a softmax: its largest score, the sum of its weights, its mixed values."""
    distance = tl.maximum(position - key, 0).to(tl.float32)[None]
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (HEAD**-0.5) - slope * tl.sqrt(distance)
    scores = tl.where((key < position)[None], scores, -float("inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    # before the first key there is nothing to keep; nor are there keys before the newest of all
    kept = tl.where(new_top == -float("inf"), 0.0, tl.exp(top - new_top))
    weights = tl.where((key < position)[None], tl.exp(scores - new_top[:, None]), 0.0)
    mixed = mixed * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
    return new_top, total * kept + tl.sum(weights, 1), mixed


@triton.jit(do_not_specialize=["pool", "stride", "place"])
def _attend(
    qkv_ptr, keys_ptr, values_ptr, slopes_ptr, rows_ptr, part_ptr, top_ptr, sum_ptr, done_ptr, y_ptr, pool,
    stride, place, AT_POSITION: tl.constexpr, AT_PAGES: tl.constexpr, PAGE: tl.constexpr,
    GROUPS: tl.constexpr, SHARED: tl.constexpr, HEAD: tl.constexpr, CHUNK: tl.constexpr,
    SPLITS: tl.constexpr, PRECISION: tl.constexpr, IS_OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """Some of a row's keys and values for the heads of one group; the last to end adds up all programs'."""
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    position = tl.load(rows_ptr + row * stride + AT_POSITION)
    if position < 0:
        return
    position += place
    if split * CHUNK > position:
        return
    d, h, key = tl.arange(0, HEAD), tl.arange(0, 16), split * CHUNK + tl.arange(0, CHUNK)
    first = group.to(tl.int64) * pool
    pages_ptr = rows_ptr + row * stride + AT_PAGES
    is_head, head = h < SHARED, group * SHARED + h
    slope = tl.load(slopes_ptr + head, mask=is_head, other=0.0)[:, None]
    k, v = _load_keys(keys_ptr, values_ptr, pages_ptr, key, position, first, PAGE, HEAD)
    newest = (first + tl.load(pages_ptr + position // PAGE) * PAGE + position % PAGE) * HEAD + d
    wait(IS_OVERLAPPED)  # the keys above were stored long before
    start_next(IS_OVERLAPPED)
    row_ptr = qkv_ptr + row * (GROUPS * SHARED + 2 * GROUPS) * HEAD
    q = tl.load(row_ptr + head[:, None] * HEAD + d[None], mask=is_head[:, None], other=0.0)
    new = row_ptr + GROUPS * SHARED * HEAD + group * HEAD + d
    new_key, new_value = tl.load(new), tl.load(new + GROUPS * HEAD)
    top = tl.full((16,), -float("inf"), tl.float32)
    total = tl.zeros((16,), tl.float32)
    mixed = tl.zeros((16, HEAD), tl.float32)
    top, total, mixed = _add_keys(q, k, v, key, position, slope, top, total, mixed, HEAD, PRECISION)
    for start in range((split + SPLITS) * CHUNK, position, SPLITS * CHUNK):
        key = start + tl.arange(0, CHUNK)
        k, v = _load_keys(keys_ptr, values_ptr, pages_ptr, key, position, first, PAGE, HEAD)
        top, total, mixed = _add_keys(q, k, v, key, position, slope, top, total, mixed, HEAD, PRECISION)
    if position // CHUNK % SPLITS == split:  # the newest, at no distance
        tl.store(keys_ptr + newest, new_key)
        tl.store(values_ptr + newest, new_value)
        score = tl.sum(q.to(tl.float32) * new_key.to(tl.float32)[None], 1) * (HEAD**-0.5)
        new_top = tl.maximum(top, score)
        weight, kept = tl.exp(score - new_top), tl.exp(top - new_top)
        total = total * kept + weight
        mixed = mixed * kept[:, None] + weight[:, None] * new_value.to(tl.float32)[None]
        top = new_top
    out = ((row * GROUPS + group) * SPLITS + split) * 16 + h
    tl.store(top_ptr + out, top)
    tl.store(sum_ptr + out, total)
    tl.store(part_ptr + out[:, None] * HEAD + d[None], mixed)
    tl.debug_barrier()
    count = tl.minimum(position // CHUNK + 1, SPLITS)
    done = done_ptr + row * GROUPS + group
    if tl.atomic_add(done, 1, sem="acq_rel") == count - 1:
        tl.store(done, 0)
        s = tl.arange(0, SPLITS)
        used = (s < count)[:, None]
        every = ((row * GROUPS + group) * SPLITS + s)[:, None] * 16 + h[None]  # (splits, heads)
        tops = tl.load(top_ptr + every, mask=used, other=-float("inf"), cache_modifier=".cg")
        share = tl.exp(tops - tl.max(tops, 0)[None])
        totals = tl.load(sum_ptr + every, mask=used, other=0.0, cache_modifier=".cg")
        parts = every[:, :, None] * HEAD + d[None, None]
        part = tl.load(part_ptr + parts, mask=used[:, :, None], other=0.0, cache_modifier=".cg")
        y = tl.sum(part * share[:, :, None], 0) / tl.sum(totals * share, 0)[:, None]
        at_y = (row * GROUPS * SHARED + head)[:, None] * HEAD + d[None]
        tl.store(y_ptr + at_y, y.to(y_ptr.dtype.element_ty), mask=is_head[:, None])


@triton.jit(do_not_specialize=["pool", "stride"])
def _store(
    qkv_ptr, keys_ptr, values_ptr, tiles_ptr, pool, stride, AT_PAGES: tl.constexpr, PAGE: tl.constexpr,
    TILE: tl.constexpr, GROUPS: tl.constexpr, SHARED: tl.constexpr, HEAD: tl.constexpr,
    IS_OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """A tile's keys and values of one group."""
    tile, group = tl.program_id(0), tl.program_id(1)
    tile_ptr = tiles_ptr + tile * stride
    first, count = tl.load(tile_ptr), tl.load(tile_ptr + 1)
    if count == 0:
        return
    wait(IS_OVERLAPPED)
    start_next(IS_OVERLAPPED)
    token, d = tl.arange(0, TILE), tl.arange(0, HEAD)
    position, mask = first + token, (token < count)[:, None]
    page = tl.load(tile_ptr + AT_PAGES + position // PAGE, mask=token < count, other=0)
    where = (group.to(tl.int64) * pool + page * PAGE + position % PAGE)[:, None] * HEAD + d[None]
    row = (tile * TILE + token) * (GROUPS * SHARED + 2 * GROUPS) + GROUPS * SHARED + group
    new = row[:, None] * HEAD + d[None]
    tl.store(keys_ptr + where, tl.load(qkv_ptr + new, mask=mask), mask=mask)
    tl.store(values_ptr + where, tl.load(qkv_ptr + new + GROUPS * HEAD, mask=mask), mask=mask)


@triton.jit(do_not_specialize=["pool", "stride"])
def _attend_prompt(
    qkv_ptr, keys_ptr, values_ptr, slopes_ptr, tiles_ptr, y_ptr, pool, stride, AT_PAGES: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr, SHARED: tl.constexpr,
    HEAD: tl.constexpr, PRECISION: tl.constexpr, IS_OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """A tile's attention for a few heads of one group."""
    tile, group, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tile_ptr = tiles_ptr + tile * stride
    first, count = tl.load(tile_ptr), tl.load(tile_ptr + 1)
    if count == 0:
        return
    wait(IS_OVERLAPPED)
    start_next(IS_OVERLAPPED)
    r, d, at = tl.arange(0, TILE * HEADS), tl.arange(0, HEAD), tl.arange(0, PAGE)
    token, h = r // HEADS, part * HEADS + r % HEADS
    is_query, head, position = ((token < count) & (h < SHARED))[:, None], group * SHARED + h, first + token
    slope = tl.load(slopes_ptr + head, mask=h < SHARED, other=0.0)[:, None]
    row = tile * TILE + token
    q_at = (row * (GROUPS * SHARED + 2 * GROUPS) + head)[:, None] * HEAD + d[None]
    q = tl.load(qkv_ptr + q_at, mask=is_query, other=0.0)
    top = tl.full((TILE * HEADS,), -float("inf"), tl.float32)
    total = tl.zeros((TILE * HEADS,), tl.float32)
    mixed = tl.zeros((TILE * HEADS, HEAD), tl.float32)
    last = first + count - 1
    for start in range(0, last + 1, PAGE):
        page = tl.load(tile_ptr + AT_PAGES + start // PAGE)
        key = start + at
        where = (group.to(tl.int64) * pool + page * PAGE + at)[:, None] * HEAD + d[None]
        k = tl.load(keys_ptr + where, mask=(key <= last)[:, None], other=0.0)
        v = tl.load(values_ptr + where, mask=(key <= last)[:, None], other=0.0)
        distance = (position[:, None] - key[None]).to(tl.float32)
        bias = slope * tl.sqrt(tl.maximum(distance, 0.0))
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (HEAD**-0.5) - bias
        scores = tl.where(distance >= 0, scores, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights, kept = tl.exp(scores - new_top[:, None]), tl.exp(top - new_top)
        total = total * kept + tl.sum(weights, 1)
        mixed = mixed * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        top = new_top
    y = (mixed / total[:, None]).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + (row * GROUPS * SHARED + head)[:, None] * HEAD + d[None], y, mask=is_query)


@dataclass(frozen=True)
class Attention:
    """Attention of one model over its pages.

    Args:
        slopes: `(heads,)` float32.
        position: index of the position among a row's numbers.
        pages: index of the first page among a row's or a tile's numbers.
        part: `(rows, groups, splits, 16, head)` float32, between the programs of `_attend`.
        top: `(rows, groups, splits, 16)` float32.
        total: likewise.
        done: `(rows, groups)` int32 zeros.
        is_overlapped: as of `Rows`.
    """

    slopes: Tensor
    position: int
    pages: int
    part: Tensor
    top: Tensor
    total: Tensor
    done: Tensor
    is_overlapped: bool

    @classmethod
    def new(
        cls, slopes: Tensor, groups: int, head_size: int, position: int, pages: int, is_overlapped: bool
    ) -> Attention:
        shape = ROWS, groups, SPLITS, 16
        part, top, total = (
            torch.empty(size, device=slopes.device) for size in ((*shape, head_size), shape, shape)
        )
        done = torch.zeros(ROWS, groups, device=slopes.device, dtype=torch.int32)
        return cls(slopes, position, pages, part, top, total, done, is_overlapped)

    def step(self, qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, place: int, y: Tensor) -> None:
        """Attend from one new position of each row, and store its key and value.

        Args:
            qkv: `(rows, (heads + 2 * groups) * head)`.
            keys: a layer's part of the cache, `(groups, positions, head)`.
            values: likewise.
            rows: `(rows, numbers)` int32; a row without a sequence has the position -1.
            place: is added to the positions.
            y: `(rows, heads * head)`, written to.
        """
        groups, pool, head = keys.shape
        _attend[(qkv.shape[0], groups, SPLITS)](
            qkv, keys, values, self.slopes, rows, self.part, self.top, self.total, self.done, y, pool,
            rows.stride(0), place, AT_POSITION=self.position, AT_PAGES=self.pages, PAGE=PAGE, GROUPS=groups,
            SHARED=self.slopes.shape[0] // groups, HEAD=head, CHUNK=CHUNK, SPLITS=SPLITS,
            PRECISION=_precision(qkv), IS_OVERLAPPED=self.is_overlapped, num_warps=8,
            **options(self.is_overlapped),
        )  # fmt: skip

    def prompts(self, qkv: Tensor, keys: Tensor, values: Tensor, tiles: Tensor, y: Tensor) -> None:
        """Attend from tiles of prompts, after storing their keys and values.

        `tiles` is `(tiles, numbers)` int32: a tile's first position, and how many of its 16 there are; the
        rest is as of `step`.
        """
        groups, pool, head = keys.shape
        shared = self.slopes.shape[0] // groups
        self.store(qkv, keys, values, tiles)
        _attend_prompt[(tiles.shape[0], groups, triton.cdiv(shared, HEADS))](
            qkv, keys, values, self.slopes, tiles, y, pool, tiles.stride(0), AT_PAGES=self.pages, PAGE=PAGE,
            TILE=TILE, HEADS=HEADS, GROUPS=groups, SHARED=shared, HEAD=head, PRECISION=_precision(qkv),
            IS_OVERLAPPED=self.is_overlapped, num_warps=4, num_stages=3, **options(self.is_overlapped),
        )  # fmt: skip

    def store(self, qkv: Tensor, keys: Tensor, values: Tensor, tiles: Tensor) -> None:
        """Store the keys and values of tiles."""
        groups, pool, head = keys.shape
        _store[(tiles.shape[0], groups)](
            qkv, keys, values, tiles, pool, tiles.stride(0), AT_PAGES=self.pages, PAGE=PAGE, TILE=TILE,
            GROUPS=groups, SHARED=self.slopes.shape[0] // groups, HEAD=head,
            IS_OVERLAPPED=self.is_overlapped, num_warps=4, **options(self.is_overlapped),
        )  # fmt: skip


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype is torch.float32 else "tf32"
