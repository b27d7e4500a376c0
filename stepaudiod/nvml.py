"""NVIDIA's management library: the cards, their free memory, the processes on them.

It loads no CUDA and takes no GPU memory. Source: NVML API Reference Guide.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

LIBRARY = "libnvidia-ml.so.1"
MAX_PROCESSES = 128
NAME_BYTES = 96
"""Length of the buffers for names and UUIDs; both are shorter."""
UNKNOWN_SIZE = 2**64 - 1
"""NVML_VALUE_NOT_AVAILABLE."""
GIB = 1 << 30


class Card(NamedTuple):
    number: int
    name: str
    free_bytes: int
    total_bytes: int
    uuid: str = ""
    has_mig: bool = False
    """Whether it is divided into several small GPUs (multi-instance GPU)."""

    def __str__(self) -> str:
        return f"{self.name}, {self.free_bytes / GIB:.1f} of {self.total_bytes / GIB:.1f} GiB free"


class Holder(NamedTuple):
    """A process with memory on a card; `size_bytes` is None where the driver doesn't tell it."""

    pid: int
    size_bytes: int | None

    def __str__(self) -> str:
        try:
            name = f" ({Path(f'/proc/{self.pid}/comm').read_text().strip()})"
        except OSError:  # of another user, or in another namespace
            name = ""
        size = "an unknown amount" if self.size_bytes is None else f"{self.size_bytes / 1e9:.1f} GB"
        return f"process {self.pid}{name} holds {size}"


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t, version 2."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Nvml:
    """The library, as long as this process lives.

    Raises:
        OSError: it isn't installed, or there is no driver.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._call("nvmlInit_v2")

    def cards(self) -> list[Card]:
        """All cards of the machine, in the order of their buses."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [self._card(index) for index in range(count.value)]

    def holders(self, card: Card) -> list[Holder]:
        """The processes that have memory on a card, the largest first; empty where the driver hides them."""
        device, found = self._device(card.number), dict[int, int | None]()
        for kind in ("Compute", "Graphics"):
            count, processes = ctypes.c_uint(MAX_PROCESSES), (_Process * MAX_PROCESSES)()
            try:
                name = f"nvmlDeviceGet{kind}RunningProcesses_v3"
                self._call(name, device, ctypes.byref(count), processes)
            except (OSError, AttributeError):
                continue
            for each in processes[: count.value]:
                found[each.pid] = None if each.used == UNKNOWN_SIZE else each.used
        holders = [Holder(pid, size_bytes) for pid, size_bytes in found.items()]
        return sorted(holders, key=lambda holder: -(holder.size_bytes or 0))

    def _card(self, index: int) -> Card:
        device, memory = self._device(index), _Memory()
        self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        name, uuid = self._text("nvmlDeviceGetName", device), self._text("nvmlDeviceGetUUID", device)
        return Card(index, name, memory.free, memory.total, uuid, self._has_mig(device))

    def _has_mig(self, device: ctypes.c_void_p) -> bool:
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        try:
            self._call("nvmlDeviceGetMigMode", device, ctypes.byref(current), ctypes.byref(pending))
        except (OSError, AttributeError):  # a card or a driver without it
            return False
        return bool(current.value)

    def _device(self, index: int) -> ctypes.c_void_p:
        device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
        return device

    def _text(self, function: str, device: ctypes.c_void_p) -> str:
        buffer = ctypes.create_string_buffer(NAME_BYTES)
        self._call(function, device, buffer, ctypes.c_uint(NAME_BYTES))
        return buffer.value.decode(errors="replace")

    def _call(self, function: str, *arguments: Any) -> None:
        if status := getattr(self._library, function)(*arguments):
            raise OSError(f"{function}: error {status}")
