"""The choice of the next id on a GPU, as `sampling` makes it on a processor. Imported on CUDA only.

    _choose   scores some codes, adds noise; the best of each program
    _pick     the best of all; looks up its row, for the next step; the last has the row's numbers advance

What is chosen depends on a row's scores, seed and position alone. The noise is made before the scores are
ready.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stepaudiod.editx.codes import AUDIO_CODES, GROUP, LINGUISTIC_CODES, LINGUISTIC_IN_GROUP
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
from stepaudiod.editx.lm.kernels import ROWS, Rows, start_row
from stepaudiod.editx.lm.step_rows import CHOICE, CODE, OUTPUT, POSITION
from stepaudiod.editx.lm.tuning import Blocks
from stepaudiod.editx.philox_kernels import gumbel

MOST_PROGRAMS = 256


@triton.jit(do_not_specialize=["rows", "stride", "place"])
def _choose(
    ready_ptr, head_ptr, squares_ptr, rows_ptr, best_ptr, code_ptr, rows, eps, stride, place,
    K: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, END: tl.constexpr, AT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SLICES: tl.constexpr,
    AHEAD: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr,
    PRECISION: tl.constexpr, IS_OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """The best of some codes; of linguistic ones the last is the end."""
    row = tl.arange(0, BLOCK_M)
    is_row = row < rows
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    code = FIRST + n
    if FIRST == 0:
        code = tl.where(n < COUNT - 1, code, END)
    row_ptr = rows_ptr + row * stride + AT
    low = tl.load(row_ptr, mask=is_row, other=0).to(tl.uint32, bitcast=True).to(tl.uint64)
    high = tl.load(row_ptr + 1, mask=is_row, other=0).to(tl.uint32, bitcast=True).to(tl.uint64)
    output = tl.load(row_ptr + 2, mask=is_row, other=0)
    least = tl.load(row_ptr + 3, mask=is_row, other=0)
    inverse = tl.load(row_ptr + 4, mask=is_row, other=0).to(tl.float32, bitcast=True)[None]
    noise = gumbel((high << 32 | low)[None], (output + place)[None], code[:, None])  # (codes, rows)
    if IS_OVERLAPPED:
        prefetch_weights(head_ptr, tl.minimum(code, END), K, AHEAD)
    wait(IS_OVERLAPPED)
    start_next(IS_OVERLAPPED)
    part = tl.arange(0, PARTS_UP)[None]
    mask = (part < PARTS) & is_row[:, None]
    squares = tl.load(squares_ptr + row[:, None] * PARTS + part, mask=mask, other=0.0)
    row_at, k_at = sliced(row, BLOCK_K, SLICES)
    code_at, k_at = sliced(code, BLOCK_K, SLICES)
    scores = tl.zeros((BLOCK_N, BLOCK_M) if SLICES == 1 else (SLICES, BLOCK_N, BLOCK_M), tl.float32)
    for start in range(0, K, BLOCK_K):
        x = tl.load(ready_ptr + row_at * K + start + k_at, mask=row_at < rows, other=0.0)
        w = tl.load(head_ptr + code_at * K + start + k_at, mask=code_at <= END, other=0.0)
        scores = tl.dot(w, inputs_first(x, SLICES), scores, input_precision=PRECISION)
    if SLICES > 1:
        scores = tl.sum(scores, 0)
    scores *= tl.rsqrt(sum_pairs(squares, PARTS_UP) / K + eps)[None]
    scores = tl.where(inverse > 0, scores * inverse + noise, scores)
    allowed = (n < COUNT)[:, None] & ((code[:, None] != END) | ((output >= least)[None] & (place == 0)))
    scores = tl.where(allowed, scores, -float("inf"))
    best = tl.max(scores, 0)
    tl.store(best_ptr + tl.program_id(0) * 16 + row, best)
    tl.store(
        code_ptr + tl.program_id(0) * 16 + row, tl.min(tl.where(scores == best[None], code[:, None], END), 0)
    )


@triton.jit(do_not_specialize=["stride"])
def _pick(
    best_ptr, code_ptr, chosen_ptr, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr, rows_ptr, stride,
    AT_CODE: tl.constexpr, AT_POSITION: tl.constexpr, AT_OUTPUT: tl.constexpr, GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr, PROGRAMS_UP: tl.constexpr, IS_LAST: tl.constexpr, END: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr, PARTS_UP: tl.constexpr,
    IS_OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """The best of all codes for one row, the first of equal ones."""
    row, p = tl.program_id(0), tl.arange(0, PROGRAMS_UP)
    wait(IS_OVERLAPPED)
    start_next(IS_OVERLAPPED)
    best = tl.load(best_ptr + p * 16 + row, mask=p < PROGRAMS, other=-float("inf"))
    code = tl.load(code_ptr + p * 16 + row, mask=p < PROGRAMS, other=END)
    chosen = tl.min(tl.where(best == tl.max(best, 0), code, END), 0)
    tl.store(chosen_ptr + row, chosen)
    if IS_LAST:  # no other kernel of this group reads these any more
        row_ptr = rows_ptr + row * stride
        position = tl.load(row_ptr + AT_POSITION)
        tl.store(row_ptr + AT_CODE, chosen)
        tl.store(row_ptr + AT_POSITION, tl.where(position < 0, position, position + GROUP))
        tl.store(row_ptr + AT_OUTPUT, tl.load(row_ptr + AT_OUTPUT) + GROUP)
    else:
        start_row(chosen, row, table_ptr, gain_ptr, x_ptr, ready_ptr, squares_ptr, K, BLOCK, PARTS, PARTS_UP)


class Chooser:
    """Chooses the codes of a group, and begins the next step with each.

    Args:
        head: `(5121, hidden)`, the output layer of all codes and the end.
        table: `(codes, hidden)` of their embeddings.
        gain: the first norm's weights.
    """

    def __init__(self, head: Tensor, table: Tensor, gain: Tensor) -> None:
        self._head, self._table, self._gain = head, table, gain
        self._best = torch.zeros(MOST_PROGRAMS, ROWS, device=head.device)
        self._codes = torch.zeros(MOST_PROGRAMS, ROWS, device=head.device, dtype=torch.int32)
        self.chosen = torch.zeros(GROUP, ROWS, device=head.device, dtype=torch.int32)

    def choose(self, rows: Rows, numbers: Tensor, place: int, eps: float, blocks: Blocks) -> None:
        """Choose a code of each row at a place of the group; the last one has the numbers advance.

        Args:
            rows: after the last layer.
            numbers: `(rows, numbers)` int32, see `step_rows`.
            place: 0 to 4.
            eps: of the norm before.
            blocks: for the output layer.
        """
        (count, hidden), parts = rows.x.shape, rows.squares.shape[1]
        is_linguistic = place < LINGUISTIC_IN_GROUP
        first = 0 if is_linguistic else LINGUISTIC_CODES
        codes = LINGUISTIC_CODES + 1 if is_linguistic else AUDIO_CODES - LINGUISTIC_CODES
        programs, block_k = triton.cdiv(codes, blocks.n), fit(blocks.k, hidden)
        shape = {
            "K": hidden, "PARTS": parts, "PARTS_UP": triton.next_power_of_2(parts), "END": AUDIO_CODES,
            "IS_OVERLAPPED": rows.is_overlapped,
        }  # fmt: skip
        _choose[(programs,)](
            rows.ready, self._head, rows.squares, numbers, self._best, self._codes, count, eps,
            numbers.stride(0), place, FIRST=first, COUNT=codes, AT=CHOICE, BLOCK_M=rows.block,
            BLOCK_N=blocks.n, BLOCK_K=block_k, SLICES=min(blocks.slices, block_k // 64) or 1,
            AHEAD=power_up_to(min(blocks.ahead, hidden)),
            PRECISION="ieee" if rows.x.dtype is torch.float32 else "tf32", num_warps=blocks.warps,
            num_stages=blocks.stages, **shape, **options(rows.is_overlapped),
        )  # fmt: skip
        _pick[(count,)](
            self._best, self._codes, self.chosen[place], self._table, self._gain, rows.x, rows.ready,
            rows.squares, numbers, numbers.stride(0), AT_CODE=CODE, AT_POSITION=POSITION, AT_OUTPUT=OUTPUT,
            GROUP=GROUP, PROGRAMS=programs, PROGRAMS_UP=triton.next_power_of_2(programs),
            IS_LAST=place == GROUP - 1, BLOCK=triton.next_power_of_2(hidden), **shape,
            **options(rows.is_overlapped),
        )  # fmt: skip
