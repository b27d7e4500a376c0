"""CUDA graphs of a function whose inputs have a batch dimension.

Launching many small kernels one by one takes longer than their work; a graph launches them all at once, for
one size. Inputs are padded to multiples of a size, and there is a graph for each padded size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

SMALL = 32
"""Padded sizes are multiples of this."""
CAPTURE = "thread_local"
"""Capture mode in which other threads may use the GPU meanwhile."""


class BatchGraphs:
    """A function of a batch, in graphs.

    It maps tensors with the batch first to such a tensor, and an item doesn't depend on later ones.
    """

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self._run = run
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self._lock = threading.Lock()

    def run(self, *given: Tensor) -> Tensor:
        count = given[0].shape[0]
        size = -(-count // SMALL) * SMALL
        with self._lock:
            if size not in self._graphs:
                self._graphs[size] = self._capture([_filled(x, size) for x in given])
            graph, inputs, made = self._graphs[size]
            for x, here in zip(inputs, given, strict=True):
                x[:count] = here
                x[count:] = 0
            graph.replay()
            return made[:count].clone()

    def _capture(self, inputs: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        self._run(*inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode=CAPTURE):
            made = self._run(*inputs)
        return graph, inputs, made


def _filled(x: Tensor, size: int) -> Tensor:
    return torch.cat((x, x.new_zeros(size - x.shape[0], *x.shape[1:])))
