"""An engine that simulates GPU failures, which can't be caused at will."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from stepaudiod.engines.base import Waveform
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.requests import SpeechRequest


class OutOfMemory(torch.AcceleratorError):
    """PyTorch's error when memory outside its allocator is exhausted."""

    error_code = 2


class LostGpu(HibariEngine):
    """Speaks, until a text says "fail" or "full"; loading fails if configured."""

    def __init__(self, *, cache_dir: Path, threads: int, loads: bool) -> None:
        super().__init__(cache_dir=cache_dir, threads=threads)
        if not loads:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        """Say the text."""
        if request.text == "fail":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if request.text == "full":
            raise OutOfMemory("CUDA error: out of memory")
        yield from super().speak(request)
