"""The most of a GPU that PyTorch may hold in this process: the sum of what its engines were given.

At the limit PyTorch frees what it has cached, so that the card shows no more than was planned.
"""

from __future__ import annotations

import torch


def limit(device: str, size_bytes: int) -> None:
    """Allow so much beside what PyTorch holds already; `device` is `cuda` or `cuda:N`."""
    _allow(device, torch.cuda.memory_reserved(device) + size_bytes)


def raise_limit(device: str, size_bytes: int) -> None:
    """Allow so much more, if there is a limit."""
    share = torch.cuda.get_per_process_memory_fraction(torch.device(device).index)
    if share < 1:
        _allow(device, round(share * torch.cuda.mem_get_info(device)[1]) + size_bytes)


def _allow(device: str, size_bytes: int) -> None:
    share = size_bytes / torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, share), torch.device(device).index)
