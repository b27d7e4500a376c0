"""A GPU for daemons on machines without one: its driver is `gpu.c`, and the small voice the model on it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
TORCH = """
import sys, types
if "stepaudiod.worker.main" in sys.orig_argv:
    torch = types.ModuleType("torch")
    torch.Tensor = type("Tensor", (), {})
    torch.cuda = types.SimpleNamespace(
        is_initialized=lambda: True, device_count=lambda: 1, empty_cache=lambda: None,
        memory_allocated=lambda device: 7_000_000_000, memory_reserved=lambda device: 8_000_000,
        get_device_properties=lambda device: types.SimpleNamespace(uuid="1234"),
    )
    sys.modules["torch"] = torch
"""
"""What a worker asks PyTorch about the GPU."""


class Gpu:
    """The card, and the state of its driver in a folder: see `gpu.c`.

    Args:
        options: of the compiler; `-DOLD` makes a driver that takes no checkpoints.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        if shutil.which("gcc") is None:
            pytest.skip("gcc isn't installed")
        folder.mkdir(exist_ok=True)
        self._folder = folder
        source, library = str(HERE / "gpu.c"), folder / LIBRARIES[0]
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", *options, source, "-o", str(library)], check=True)
        (folder / LIBRARIES[1]).symlink_to(library)
        (folder / "sitecustomize.py").write_text(TORCH)
        self.environ = {
            "TEST_GPU": str(folder),
            "LD_LIBRARY_PATH": str(folder),
            "PYTHONPATH": f"{folder}:{HERE.parent}",
        }

    def set(self, name: str, number: int = 1) -> None:
        (self._folder / name).write_text(str(number))

    def clear(self, name: str) -> None:
        (self._folder / name).unlink()

    @property
    def checkpoint_calls(self) -> list[str]:
        """The functions that were called, beside the initialisation."""
        calls = self._folder / "calls"
        lines = calls.read_text().split() if calls.exists() else []
        return [line for line in lines if line != "cuInit"]
