"""Keys and values of many sequences in one block of memory of a fixed size.

    pool       │ request A, 900 positions │ B, 700 │··· free ···│ C, 1200 │ spare │

A sequence is allocated one range for all that it may need, or waits: none runs out of memory midway. A
released range stays known until it is overwritten, so that the beginning of an equal prompt can be copied.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from stepaudiod.editx.lm.config import SPARE_POSITIONS, Step1Config
from stepaudiod.editx.lm.step1 import KVCache


@dataclass(eq=False)
class Allocation:
    """A sequence's range of the pool, and the tokens whose keys and values it holds."""

    start: int
    size: int
    ids: list[int] = field(default_factory=list)

    def overlaps(self, other: Allocation) -> bool:
        return self.start < other.start + other.size and other.start < self.start + self.size


class KVPool:
    def __init__(self, config: Step1Config, positions: int, device: torch.device, dtype: torch.dtype) -> None:
        self.positions = positions
        shape = (
            config.num_hidden_layers,
            config.num_attention_groups,
            positions + SPARE_POSITIONS,
            config.head_size,
        )
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._taken: list[Allocation] = []
        self._known: list[Allocation] = []

    def allocate(self, size: int) -> Allocation | None:
        """Allocate the first gap that is large enough; None if there is none."""
        at = 0
        for allocation in [*sorted(self._taken, key=lambda s: s.start), Allocation(self.positions, 0)]:
            if allocation.start - at >= size:
                taken = Allocation(at, size)
                self._taken.append(taken)
                return taken
            at = allocation.start + allocation.size
        return None

    def release(self, allocation: Allocation) -> None:
        """Free a range; its content stays known until it is overwritten."""
        self._taken.remove(allocation)
        self._known.append(allocation)

    def copy_known(self, prompt: list[int], into: Allocation, block: int, least: int) -> int:
        """Copy the known beginning of a prompt into a new range, in whole blocks and never the whole prompt.

        What `into`, just allocated, overlaps is no longer known. The first block has `least` positions, which
        may be more than `block`.

        Returns:
            The number of copied positions.
        """
        known = 0
        for source in [*self._taken, *self._known]:
            shared = common(source.ids, prompt[:-1]) // block * block
            if shared > known and shared >= least:
                known, best = shared, source
        if known:
            for x in (self.keys, self.values):  # a copy first: the two may overlap
                x[:, :, into.start : into.start + known] = x[:, :, best.start : best.start + known].clone()
        self._known = [allocation for allocation in self._known if not allocation.overlaps(into)]
        into.ids = prompt[:known]
        return known

    def cache(self, allocation: Allocation) -> KVCache:
        part = slice(allocation.start, allocation.start + allocation.size)
        return KVCache(self.keys[:, :, part], self.values[:, :, part])


def common(first: list[int], second: list[int]) -> int:
    """Length of the common beginning of two lists."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))
