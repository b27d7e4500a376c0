"""Buffers of kernels that run one after the other, in one piece of memory that is allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

ALIGNMENT = 256


class Arena:
    """Hands out buffers in turn. Until its memory is allocated, it only finds out how much is needed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: Tensor | None = None
        self._at = self._most = 0

    def allocate(self) -> None:
        """Allocate as much as was taken at most."""
        self._memory = torch.zeros(self._most, dtype=torch.uint8, device=self._device)

    def clear(self) -> None:
        """Hand out everything anew."""
        self._at = 0

    def take(self, rows: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A buffer `(rows, width)`, with anything in it; without memory, before `allocate`."""
        size, begin = rows * width * dtype.itemsize, self._at
        self._at = begin + -(-size // ALIGNMENT) * ALIGNMENT
        if self._memory is None:
            self._most = max(self._most, self._at)
            return torch.empty(rows, width, dtype=dtype, device="meta")
        assert self._at <= self._most
        return self._memory[begin : begin + size].view(dtype).view(rows, width)
