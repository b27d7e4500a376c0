"""Sizes of the work of one program, for each matrix and number format. Imports no Triton.

They are the same for any number of rows, since a sum's last bits depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Blocks:
    """Outputs and stored inputs at a time of one program, its warps, and blocks in flight.

    `ahead` stored inputs of each output are prefetched while the kernel before runs. Of several slices of the
    inputs each is summed by other warps; int4 has slices of 64. If late, the next kernel starts only once the
    sums are made: what it prefetches then comes while nothing else is read, and doesn't compete with the
    weights of this one.
    """

    n: int
    k: int
    warps: int
    stages: int
    ahead: int = 0
    slices: int = 1
    is_late: bool = False


@dataclass(frozen=True)
class Tuning:
    """The blocks of a layer's four matrices and of the output layer; `rows` are of all of them.

    Those that are added to the residual, `out` and `down`, must have the same number of outputs.
    """

    rows: int
    qkv: Blocks
    out: Blocks
    gate_up: Blocks
    down: Blocks
    head: Blocks


_EXACT = Blocks(32, 64, 4, 2)
_STEPS = {
    16: Tuning(
        16,
        qkv=Blocks(16, 256, 4, 6, 512, 4),
        out=Blocks(16, 256, 4, 4, 1024, 4, is_late=True),
        gate_up=Blocks(16, 512, 4, 3, 256, 4, is_late=True),
        down=Blocks(16, 512, 4, 4, 512, 4, is_late=True),
        head=Blocks(16, 512, 4, 3, 1024, 4),
    ),
    8: Tuning(
        16,
        qkv=Blocks(16, 512, 4, 4, 512, 4),
        out=Blocks(32, 512, 4, 3, 2048, 4, is_late=True),
        gate_up=Blocks(16, 512, 4, 3, 0, 4, is_late=True),
        down=Blocks(32, 512, 4, 3, 1024, 4, is_late=True),
        head=Blocks(16, 512, 4, 3, 1024, 4),
    ),
    4: Tuning(
        16,
        qkv=Blocks(16, 512, 8, 3, 1024, 8),
        out=Blocks(16, 512, 8, 2, 512, 8),
        gate_up=Blocks(16, 256, 4, 3, 1024, 4),
        down=Blocks(16, 512, 8, 3, 2048, 8, is_late=True),
        head=Blocks(16, 512, 4, 3, 1024, 4),
    ),
}
_PROMPTS = {
    16: Tuning(
        128,
        qkv=Blocks(128, 64, 8, 4),
        out=Blocks(128, 64, 8, 4),
        gate_up=Blocks(128, 64, 8, 3),
        down=Blocks(128, 64, 8, 4),
        head=_EXACT,
    ),
    8: Tuning(
        128,
        qkv=Blocks(128, 64, 8, 3),
        out=Blocks(64, 64, 4, 4),
        gate_up=Blocks(64, 64, 4, 3),
        down=Blocks(64, 64, 4, 4),
        head=_EXACT,
    ),
    4: Tuning(
        128,
        qkv=Blocks(128, 64, 8, 3),
        out=Blocks(128, 64, 8, 3),
        gate_up=Blocks(128, 64, 8, 3),
        down=Blocks(128, 64, 8, 3),
        head=_EXACT,
    ),
}


def tune_steps(dtype: torch.dtype, bits: int) -> Tuning:
    """Blocks of decode steps, whose time is the reading of the weights."""
    return Tuning(16, _EXACT, _EXACT, _EXACT, _EXACT, _EXACT) if dtype is torch.float32 else _STEPS[bits]


def tune_prompts(dtype: torch.dtype, bits: int) -> Tuning:
    """Blocks of prompts, whose time is the arithmetic; the output layer isn't needed."""
    return Tuning(32, _EXACT, _EXACT, _EXACT, _EXACT, _EXACT) if dtype is torch.float32 else _PROMPTS[bits]
