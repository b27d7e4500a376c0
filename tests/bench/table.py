"""The results of GPU measurements, and functions for measuring."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stepaudiod.editx.lm.config import Quantization


@dataclass
class Table:
    """The results."""

    models: Path
    quantized: Path
    kinds: tuple[Quantization | None, ...]
    is_long: bool = False
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


def gpu_memory() -> str:
    """PyTorch's memory, and the driver's for the whole GPU."""
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    used = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    most, held = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.memory_reserved() / 1e9
    return f"{most:.2f} GB at most in use, {held:.2f} held, {int(used) * 1.048576e-3:.2f} on the card"


def own_memory() -> float:
    """The process's anonymous memory, in GB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e6 for line in lines if line.startswith("RssAnon"))
