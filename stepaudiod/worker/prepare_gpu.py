"""A GPU's context made while packages are imported: the half second is spent meanwhile.

It is the one that every library of the process uses. CUDA's driver makes it, without PyTorch. It reserves
stack for every thread that a GPU can hold, 0.28 GB on an H100, unless it is told that less will do: a kernel
that needs more gets it at its launch. Only of recursion and of calls through pointers the driver doesn't know
how much they need.
"""

from __future__ import annotations

import ctypes

STACK_SIZE = 0
"""CU_LIMIT_STACK_SIZE."""
STACK_BYTES = 256
"""For each thread, instead of 1024. PyTorch's attention needs 352."""


def make_context(device: str) -> None:
    """Make the context of the GPU that an engine's setting names; do nothing where there is none.

    The setting is `auto`, `cpu`, `cuda` or `cuda:N`. Whatever fails here fails again, and is reported, where
    the GPU is used.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cuda"):
        return
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    number, context, is_active = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(number), int(index or 0)):
        return
    driver.cuDevicePrimaryCtxGetState(number, ctypes.byref(ctypes.c_uint()), ctypes.byref(is_active))
    if is_active or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number):
        return
    driver.cuCtxPushCurrent_v2(context)
    driver.cuCtxSetLimit(STACK_SIZE, ctypes.c_size_t(STACK_BYTES))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
