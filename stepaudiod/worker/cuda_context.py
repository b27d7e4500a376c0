"""A GPU's context made while packages are imported: the half second is spent meanwhile.

It is the one that every library of the process uses. CUDA's driver makes it, without PyTorch.
"""

from __future__ import annotations

import ctypes


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
    number, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(number), int(index or 0)) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number)
