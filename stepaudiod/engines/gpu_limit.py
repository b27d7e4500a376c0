"""The most of a GPU that PyTorch may hold in this process: the sum of what its engines were given.

At the limit PyTorch frees what it has cached, so that the card shows no more than was planned.
"""

from __future__ import annotations

from contextlib import suppress

import torch

from stepaudiod.errors import GpuFull
from stepaudiod.nvml import Nvml


def limit(device: str, size_bytes: int) -> None:
    """Allow so much beside what PyTorch holds already; `device` is `cuda` or `cuda:N`."""
    _allow(device, torch.cuda.memory_reserved(device) + size_bytes)


def raise_limit(device: str, size_bytes: int) -> None:
    """Allow so much more, if there is a limit."""
    share = torch.cuda.get_per_process_memory_fraction(torch.device(device).index)
    if share < 1:
        _allow(device, round(share * torch.cuda.mem_get_info(device)[1]) + size_bytes)


def full() -> GpuFull:
    """The error for want of memory on this thread's GPU: what holds it, or that the limit is reached."""
    lack = "The GPU's memory is full"
    with suppress(OSError, RuntimeError, AssertionError):  # without a driver, or without its library
        device, (free, total) = torch.cuda.current_device(), torch.cuda.mem_get_info()
        held = torch.cuda.memory_reserved()
        if torch.cuda.get_per_process_memory_fraction(device) * total - held < free:
            return GpuFull(
                f"The models hold {held / 1e9:.1f} GB of the GPU, and step_audio.gpu_memory allows no more. "
                "Send the request again when others have ended, or raise it."
            )
        uuid, nvml = f"GPU-{torch.cuda.get_device_properties(device).uuid}", Nvml()
        for card in nvml.cards():
            if card.uuid == uuid:
                holders = "; ".join(map(str, nvml.holders(card))) or "other processes hold the rest"
                lack += (
                    f": of {card.total_bytes / 1e9:.1f} GB of the GPU {card.name}, "
                    f"{card.free_bytes / 1e9:.1f} GB are free; {holders}"
                )
    return GpuFull(f"{lack}. Send the request again when there is more, or end what holds it.")


def _allow(device: str, size_bytes: int) -> None:
    share = size_bytes / torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, share), torch.device(device).index)
