"""What is made of many small kernels, in CUDA graphs: starting them one by one takes longer than their work.

A graph starts them all at once, but for one size. So inputs are filled up to round sizes, what was filled up
is masked, and there is a graph for each size that came up. Its memory is its own, so one thread uses it at a
time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepaudiod.model.dit import KERNEL, MELS, DiT, Modulation, Padding, Past

SMALL, LARGE = 32, 128
"""Sizes are multiples of the first up to the second, and of the second beyond."""
CAPTURE = "thread_local"
"""Other threads may go on while one records."""
KEPT = torch.float16
"""Of keys and values of the past: as many digits as TF32 has."""


def round_up(frames: int) -> int:
    """Give the size that a number of frames is filled up to."""
    unit = SMALL if frames <= LARGE else LARGE
    return -(-frames // unit) * unit


@dataclass
class _Graph:
    """One recorded step, and the tensors it reads and writes."""

    replay: Callable[[], None]
    rows: Tensor
    past: Past | None
    padding: Padding
    velocity: Tensor
    left: Past | None
    real: tuple[int, int] = field(default=(-1, -1))

    def fit(self, frames: int, before: int) -> None:
        """Mask what isn't real of the frames and of the past."""
        if self.real == (frames, before):
            return
        self.real, size = (frames, before), self.rows.shape[1]
        is_key = self.padding.is_key
        is_key.fill_(False)
        is_key[..., :frames] = True
        is_key[..., size : size + before] = True
        torch.arange(frames, frames + KERNEL - 1, out=self.padding.last)


class StepGraphs:
    """One graph for each size.

    Args:
        estimator: on a GPU.
    """

    def __init__(self, estimator: DiT) -> None:
        self._estimator = estimator
        self._graphs: dict[tuple[int, int, bool], _Graph] = {}
        self._memory = torch.cuda.graph_pool_handle()
        self._modulation: Modulation | None = None
        self._room = torch.empty(0)
        self._lock = threading.Lock()

    def step(
        self, rows: Tensor, modulation: Modulation, past: Past | None, is_kept: bool
    ) -> tuple[Tensor, Past | None]:
        """Run `DiT.forward` over any number of frames; what is left behind is kept in half precision."""
        with self._lock:
            return self._step(rows, modulation, past, is_kept)

    def _step(
        self, rows: Tensor, modulation: Modulation, past: Past | None, is_kept: bool
    ) -> tuple[Tensor, Past | None]:
        frames, before = rows.shape[1], 0 if past is None else past.frames
        key = round_up(frames), round_up(before), is_kept
        if key not in self._graphs:
            self._graphs[key] = self._capture(modulation, rows.device, *key)
        graph = self._graphs[key]
        graph.fit(frames, before)
        graph.rows[:, :frames] = rows
        self._set(modulation)
        if past is not None and graph.past is not None:
            _lay_in(graph.past.caches, past.parts)
            graph.past.columns.copy_(past.columns)
        graph.replay()
        velocity, left = graph.velocity[:, :frames].clone(), graph.left
        if left is not None:
            left = Past(left.caches[..., :frames, :].clone(), left.columns.clone())
        return velocity, left

    def _set(self, modulation: Modulation) -> None:
        assert self._modulation is not None
        self._modulation.blocks.copy_(modulation.blocks)
        self._modulation.output.copy_(modulation.output)

    def _capture(
        self, modulation: Modulation, device: torch.device, frames: int, before: int, is_kept: bool
    ) -> _Graph:
        if self._modulation is None:
            self._modulation = Modulation(modulation.blocks.clone(), modulation.output.clone())
        rows = torch.zeros(2, frames, 4 * MELS, device=device)
        past = self._new_past(before, device) if before else None
        padding = Padding(
            torch.ones(1, 1, 1, frames + before, dtype=torch.bool, device=device),
            torch.arange(frames, frames + KERNEL - 1, device=device),
        )
        kept = KEPT if is_kept else None
        # a first call sets things up that no graph can record
        self._estimator(rows, self._modulation, past, padding, kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._memory, capture_error_mode=CAPTURE):
            velocity, left = self._estimator(rows, self._modulation, past, padding, kept)
        return _Graph(graph.replay, rows, past, padding, velocity, left)

    def _new_past(self, frames: int, device: torch.device) -> Past:
        """Room for a past; of caches, a view of one buffer, which grows: graphs run one after the other."""
        block, depth = self._estimator.first_block, len(self._estimator.blocks)
        shape = depth, 2, 2, block.attn.heads, frames, block.attn.head_size
        values = torch.Size(shape).numel()
        if self._room.numel() < values:
            self._room = torch.zeros(values, dtype=KEPT, device=device)
        columns = torch.zeros(depth, 2, 2, block.size, KERNEL - 1, device=device)
        return Past(self._room[:values].view(shape), columns)


class BatchGraphs:
    """A function of a batch, in graphs.

    Args:
        run: gives a tensor for tensors that have the batch first; its items don't depend on later ones.
    """

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self._run = run
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self._lock = threading.Lock()

    def run(self, *given: Tensor) -> Tensor:
        """Run it on a GPU over any number of items."""
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


def _lay_in(room: Tensor, parts: tuple[Tensor, ...]) -> None:
    """Write keys and values one behind the other."""
    at = 0
    for part in parts:
        room[..., at : at + part.shape[4], :] = part
        at += part.shape[4]


def _filled(x: Tensor, size: int) -> Tensor:
    return torch.cat((x, x.new_zeros(size - x.shape[0], *x.shape[1:])))
