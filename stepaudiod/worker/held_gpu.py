"""The worker's part in its checkpoint: which cards it holds, and the right to inspect it."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from stepaudiod.core_dumps import allow_inspection
from stepaudiod.worker.protocol import HeldGpu


def prepare() -> HeldGpu:
    """Give back cached GPU memory, and let the driver inspect this process if it holds any of the rest.

    Called while no work uses the GPU.
    """
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)  # another thread may be importing torch
    if is_initialized is None or not is_initialized():
        return HeldGpu({})
    with suppress(RuntimeError):  # PyTorch's, while another thread captures a graph
        cuda.empty_cache()  # what is not there is neither copied nor restored
    devices = [index for index in range(cuda.device_count()) if cuda.memory_reserved(index)]
    held = {f"GPU-{cuda.get_device_properties(i).uuid}": cuda.memory_reserved(i) for i in devices}
    if held:
        allow_inspection()
    return HeldGpu(held)
