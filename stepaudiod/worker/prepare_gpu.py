"""Prepares a GPU while packages are imported: its context, and Triton's key. Neither needs PyTorch.

CUDA's driver makes the context, the one that every library of the process uses. It reserves stack for every
thread that a GPU can hold, 0.28 GB on an H100, unless it is told that less will do: a kernel that needs more
gets it at its launch. Only of recursion and of calls through pointers the driver doesn't know how much they
need.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from importlib import import_module

STACK_SIZE = 0
"""CU_LIMIT_STACK_SIZE."""
STACK_BYTES = 256
"""For each thread, instead of 1024. PyTorch's attention needs 352."""


def prepare_gpu(device: str) -> None:
    """Make the context of the GPU that an engine's setting names, and have Triton make its key.

    The setting is `auto`, `cpu`, `cuda` or `cuda:N`; where there is no such GPU nothing is done. Whatever
    fails here fails again, and is reported, where it is used.
    """
    kind, _, index = device.partition(":")
    with suppress(Exception):
        if kind in ("auto", "cuda") and make_context(int(index or 0)):
            make_triton_key()


def make_context(index: int) -> bool:
    """Make the context of a GPU; returns whether there is such a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    number, context, is_active = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(number), index):
        return False
    driver.cuDevicePrimaryCtxGetState(number, ctypes.byref(ctypes.c_uint()), ctypes.byref(is_active))
    if is_active or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number):
        return True
    driver.cuCtxPushCurrent_v2(context)
    driver.cuCtxSetLimit(STACK_SIZE, ctypes.c_size_t(STACK_BYTES))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    return True


def make_triton_key() -> None:
    """Have Triton make the key with which it finds compiled kernels: a digest of its files.

    These are 0.4 to 0.5 GB. Triton remembers the key for the process. Most of the time is spent without the
    interpreter's lock.

    Raises:
        ImportError: Triton is not installed.
    """
    import_module("triton.runtime.cache").triton_key()
