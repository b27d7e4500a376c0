"""The results of GPU measurements, and functions for measuring."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stepaudiod.editx.lm.config import Quantization

WATCH_S = 0.005
"""Between two looks at a card's memory."""


@dataclass
class Table:
    """The results."""

    models: Path
    kinds: tuple[Quantization | None, ...]
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, measured: str, to_reach: str = "–") -> None:
        """Add a value, and print it at once in case the rest fails."""
        self.rows.append((what, to_reach, measured))
        print(f"{what}: {measured} ({to_reach})", flush=True)

    def print(self) -> None:
        """Print everything, as Markdown."""
        print("\n| what | to reach | measured |\n| --- | --- | --- |")
        for row in self.rows:
            print("| " + " | ".join(row) + " |")


def timed(run: Callable[[], object], repeats: int = 5, warm_up: int = 2) -> float:
    """The median seconds of a call."""
    times = []
    for index in range(repeats + warm_up):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if index >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


class Card:
    """The memory of the first card that is in use, as nvidia-smi shows it: all processes' and the driver's.

    Source: NVML API reference, nvmlDeviceGetMemoryInfo_v2.
    """

    def __init__(self) -> None:
        self._nvml, self._card = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        self._nvml.nvmlInit_v2()
        self._nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self._card))

    def used_gb(self) -> float:
        info = (ctypes.c_uint64 * 5)()  # version, total, reserved, free, used
        info[0] = ctypes.sizeof(info) | 2 << 24
        if status := self._nvml.nvmlDeviceGetMemoryInfo_v2(self._card, info):
            raise OSError(f"nvmlDeviceGetMemoryInfo_v2: {status}")
        return info[4] / 1e9

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[float]]:
        """Look at it all the time; the list is of the most so far."""
        most, is_done = [self.used_gb()], threading.Event()

        def watch() -> None:
            while not is_done.wait(WATCH_S):
                most[0] = max(most[0], self.used_gb())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield most
        finally:
            is_done.set()
            thread.join()


def name_of(kind: Quantization | None) -> str:
    return kind.value if kind else "bf16"
