"""The most of a GPU that PyTorch may hold in this process: the sum of what its engines were given.

At the limit PyTorch frees what it has cached, so that the card shows no more than was planned.
"""

from __future__ import annotations

import torch


def limit(device: str, size_bytes: int) -> None:
    """Allow so much beside what PyTorch holds already."""
    _allow(device, torch.cuda.memory_reserved(device) + size_bytes)


def raise_limit(device: str, size_bytes: int) -> None:
    """Allow so much more, if there is a limit."""
    if (share := torch.cuda.get_per_process_memory_fraction(device)) < 1:
        _allow(device, round(share * torch.cuda.mem_get_info(device)[1]) + size_bytes)


def _allow(device: str, size_bytes: int) -> None:
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, size_bytes / total), device)
