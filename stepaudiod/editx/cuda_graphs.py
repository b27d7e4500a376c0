"""CUDA graphs: kernels recorded once and launched together.

Launching many small kernels one by one takes longer than their work. A graph is of fixed sizes and addresses:
inputs are copied to buffers, padded, and there is a graph for each padded size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor

SMALL = 32
"""`BatchGraphs` pads to multiples of this."""
CAPTURE = "thread_local"
"""Capture mode in which other threads may use the GPU meanwhile."""
_CAPTURING = threading.RLock()  # PyTorch allows one capture at a time in a process

T = TypeVar("T")


def with_memory(run: Callable[[], T]) -> T:
    """Run what allocates memory, and once more, beside no capture, if there was too little.

    While a graph is captured, by this function or by another thread, PyTorch doesn't free what it has cached
    for other sizes and streams.
    """
    with suppress(torch.OutOfMemoryError):  # and what it had allocated until then is freed
        return run()
    with _CAPTURING:
        torch.cuda.empty_cache()
        return run()


class Recorder:
    """Records graphs that share memory, and so are replayed one after the other, never at once.

    Unlike `torch.cuda.graph`, recording neither waits for the device nor collects garbage, so other streams
    and threads go on.
    """

    def __init__(self, device: torch.device) -> None:
        # one stream for all, since each stream has a workspace of its own for products
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._first: torch.cuda.CUDAGraph | None = None

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Record the kernels that a function launches on the current stream.

        It runs once before, since its first run compiles and loads what can't be recorded.

        Returns:
            What replays them, and the function's result, whose tensors each replay writes to.
        """
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with _CAPTURING, torch.cuda.stream(self._stream):
            run()
            graph.capture_begin(self._pool, capture_error_mode=CAPTURE)
            try:
                made = run()
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)
        self._first = self._first or graph  # the memory's handle is void when the last of its graphs is gone
        return graph.replay, made


class BatchGraphs:
    """A function of a batch, in graphs, or without them on the same padded batch.

    It maps tensors with the batch first to such a tensor, and an item doesn't depend on later ones.
    """

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self._run = run
        self._recorder: Recorder | None = None
        self._graphs: dict[int, tuple[Callable[[], None], list[Tensor], Tensor]] = {}
        self._lock = threading.Lock()

    def run(self, *given: Tensor, is_recorded: bool) -> Tensor:
        """Run it; what it reads besides must have fixed addresses if `is_recorded`."""
        count = given[0].shape[0]
        size = -(-count // SMALL) * SMALL
        if not is_recorded:
            return self._run(*(_filled(x, size) for x in given))[:count]
        with self._lock:
            if size not in self._graphs:
                self._graphs[size] = self._capture([_filled(x, size) for x in given])
            replay, inputs, made = self._graphs[size]
            for x, here in zip(inputs, given, strict=True):
                x[:count] = here
                x[count:] = 0
            replay()
            return made[:count].clone()

    def _capture(self, inputs: list[Tensor]) -> tuple[Callable[[], None], list[Tensor], Tensor]:
        self._recorder = self._recorder or Recorder(inputs[0].device)
        replay, made = self._recorder.record(lambda: self._run(*inputs))
        return replay, inputs, made


def _filled(x: Tensor, size: int) -> Tensor:
    return torch.cat((x, x.new_zeros(size - x.shape[0], *x.shape[1:])))
