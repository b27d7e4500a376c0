"""Keys and values of many sequences in one block of memory, whose size is known beforehand.

    pool       │ request A, 900 positions │ B, 700 │··· free ···│ C, 1200 │ spare │

Each sequence gets one stretch for all it may ever need, or has to wait: nothing runs out midway. What was
read stays known until something is written over it, so that a prompt which begins alike can be copied.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from stepaudiod.editx.lm.step1 import KVCache, Step1Config

SPARE = 8
"""Positions at the end where rows without a sequence write."""


@dataclass(eq=False)
class Allocation:
    """A sequence's part of the pool.

    Args:
        start: its first position.
        size: how many it may use.
        ids: what was read into it.
    """

    start: int
    size: int
    ids: list[int] = field(default_factory=list)

    def overlaps(self, other: Allocation) -> bool:
        """Tell whether they share positions."""
        return self.start < other.start + other.size and other.start < self.start + self.size


class KVPool:
    """The block of memory, and who has which part of it.

    Args:
        config: the model's dimensions.
        positions: of all sequences together.
        device: where it lies.
        dtype: the model's.
    """

    def __init__(self, config: Step1Config, positions: int, device: torch.device, dtype: torch.dtype) -> None:
        self.positions = positions
        shape = (config.num_hidden_layers, config.num_attention_groups, positions + SPARE, config.head_size)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._taken: list[Allocation] = []
        self._known: list[Allocation] = []

    @staticmethod
    def size_bytes(config: Step1Config, positions: int, dtype: torch.dtype) -> int:
        """Memory that a pool takes."""
        values = 2 * config.num_hidden_layers * config.num_attention_groups * config.head_size
        return values * (positions + SPARE) * dtype.itemsize

    def allocate(self, size: int) -> Allocation | None:
        """Take the first gap that is large enough; None if there is none now."""
        at = 0
        for allocation in [*sorted(self._taken, key=lambda s: s.start), Allocation(self.positions, 0)]:
            if allocation.start - at >= size:
                taken = Allocation(at, size)
                self._taken.append(taken)
                return taken
            at = allocation.start + allocation.size
        return None

    def release(self, allocation: Allocation) -> None:
        """Let others have it; what was read stays known until they write there."""
        self._taken.remove(allocation)
        self._known.append(allocation)

    def copy_known(self, prompt: list[int], into: Allocation, block: int, least: int) -> int:
        """Fill a stretch with what is known of a prompt's beginning, in whole blocks and never all of it.

        Args:
            prompt: its ids.
            into: just taken; what was known where it lies is forgotten.
            block: positions a block.
            least: of the first block, which may be larger.

        Returns:
            How many positions are there.
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
        """See a stretch as a cache of one row."""
        part = slice(allocation.start, allocation.start + allocation.size)
        keys, values = (x[:, None, :, part] for x in (self.keys, self.values))
        return KVCache(keys, values)


def common(first: list[int], second: list[int]) -> int:
    """Count the ids that two lists begin with alike."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
