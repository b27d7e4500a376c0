"""The estimator's steps in CUDA graphs; see `cuda_graphs`.

The padding of inputs is masked. A graph has fixed buffers, so one thread uses it at a time. Many small
kernels take hardly longer for four utterances than for one, so graphs have several slots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepaudiod.editx.cuda_graphs import CAPTURE, SMALL
from stepaudiod.editx.decoder.config import KERNEL
from stepaudiod.editx.decoder.dit import MELS, DiT, DiTBlock, KVState, Modulation, Padding

LARGE = 128
"""Sizes are multiples of `SMALL` up to this, and of this beyond."""
STATE_DTYPE = torch.float16
"""Of the keys and values of the past; as many digits as TF32. See `config.STATE_BYTES`."""
PAST_FRAMES, NEW_FRAMES = 1664, 512
"""Mel frames whose keys and values graphs read and write: a reference of 30 s, and the largest prefill."""
MAX_SLOTS = 4


def round_up(frames: int) -> int:
    """The size that a number of frames is padded to."""
    unit = SMALL if frames <= LARGE else LARGE
    return -(-frames // unit) * unit


def slots_beside(before: int) -> int:
    """The number of chunks with so long a past that a graph takes at once."""
    return max(1, min(MAX_SLOTS, PAST_FRAMES // max(1, round_up(before))))


@dataclass(frozen=True, eq=False)
class StepInput:
    """The input of one step, for one utterance: rows `(2, frames, 320)`, see `DiT.forward`."""

    rows: Tensor
    past: KVState | None = None

    @property
    def frames(self) -> int:
        return self.rows.shape[1]

    @property
    def before(self) -> int:
        return 0 if self.past is None else self.past.frames


class Recorder:
    """Records the kernels that functions launch, in one memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Record a function; returns what replays it, and the tensor that gets the result.

        The function has run once before, since the first run sets up what can't be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._pool, capture_error_mode=CAPTURE):
            made = run()
        return graph.replay, made


@dataclass
class _Graph:
    """A recorded step, and the tensors it reads and writes."""

    replay: Callable[[], object]
    rows: Tensor
    past: KVState | None
    padding: Padding
    velocity: Tensor
    new: KVState
    real: dict[int, tuple[int, int]] = field(default_factory=dict)

    def write(self, slot: int, given: StepInput) -> None:
        """Write an utterance's input, and mask the padding of its frames and its past."""
        at, frames, before = _rows(slot), given.frames, given.before
        self.rows[at, :frames] = given.rows
        if given.past is not None and self.past is not None:
            _write_parts(self.past.caches[:, :, at], given.past.parts)
            self.past.columns[:, :, at] = given.past.columns
        if self.real.get(slot) == (frames, before):
            return
        self.real[slot], size = (frames, before), self.rows.shape[1]
        is_key = self.padding.is_key[at]
        is_key.fill_(False)
        is_key[..., :frames] = True
        is_key[..., size : size + before] = True
        self.padding.last[at] = torch.arange(frames, frames + KERNEL - 1, device=self.rows.device)

    def read(self, slot: int, frames: int) -> tuple[Tensor, KVState]:
        at, new = _rows(slot), self.new
        velocity = self.velocity[at, :frames].clone()
        return velocity, KVState(new.caches[:, :, at, :, :frames].clone(), new.columns[:, :, at].clone())


class StepGraphs:
    def __init__(self, estimator: DiT, recorder: Recorder | None = None) -> None:
        self._estimator = estimator
        self._recorder = recorder or Recorder()
        self._graphs: dict[tuple[int, int, int], _Graph] = {}
        self._modulation: Modulation | None = None
        self._past_buffer = self._new_buffer = torch.empty(0, dtype=STATE_DTYPE)
        self._lock = threading.Lock()

    def step(
        self, inputs: Sequence[StepInput], modulation: Modulation, slots: int = 1
    ) -> list[tuple[Tensor, KVState]]:
        """Run `DiT.forward` on each; the new states are in half precision.

        There are one to `slots` inputs, all padded to one size. The last bits of the results depend on the
        number of slots, and not on the other inputs.
        """
        with self._lock:
            size = round_up(inputs[0].frames), round_up(inputs[0].before)
            assert len(inputs) <= slots
            assert all((round_up(x.frames), round_up(x.before)) == size for x in inputs)
            graph = self._graph(modulation, (*size, slots))
            for slot, given in enumerate(inputs):
                graph.write(slot, given)
            graph.replay()
            return [graph.read(slot, given.frames) for slot, given in enumerate(inputs)]

    def _graph(self, modulation: Modulation, key: tuple[int, int, int]) -> _Graph:
        if self._modulation is None:
            self._modulation = Modulation(modulation.blocks.clone(), modulation.output.clone())
        self._modulation.blocks.copy_(modulation.blocks)
        self._modulation.output.copy_(modulation.output)
        if key not in self._graphs:
            self._graphs[key] = self._capture(self._modulation, *key)
        return self._graphs[key]

    def _capture(self, modulation: Modulation, frames: int, before: int, slots: int) -> _Graph:
        batch, device = 2 * slots, modulation.blocks.device
        rows = torch.zeros(batch, frames, 4 * MELS, device=device)
        past = None
        if before:
            self._past_buffer, past = self._within(self._past_buffer, PAST_FRAMES, batch, before, device)
        self._new_buffer, new = self._within(self._new_buffer, NEW_FRAMES, batch, frames, device)
        padding = Padding(
            torch.ones(batch, 1, 1, frames + before, dtype=torch.bool, device=device),
            torch.arange(frames, frames + KERNEL - 1, device=device).repeat(batch, 1),
        )

        def run() -> Tensor:
            velocity, state = self._estimator(rows, modulation, past, padding, STATE_DTYPE)
            new.caches.copy_(state.caches)
            new.columns.copy_(state.columns)
            made: Tensor = velocity
            return made

        run()
        replay, velocity = self._recorder.record(run)
        return _Graph(replay, rows, past, padding, velocity, new)

    def _within(
        self, buffer: Tensor, least: int, batch: int, frames: int, device: torch.device
    ) -> tuple[Tensor, KVState]:
        """Keys and values in a buffer that all graphs share, since they run one after the other."""
        block, depth = self._estimator.blocks[0], len(self._estimator.blocks)
        assert isinstance(block, DiTBlock)
        shape = depth, 2, batch, block.attn.heads, frames, block.attn.head_size
        values = torch.Size(shape).numel()
        if buffer.numel() < values:
            size = max(values, values // (batch * frames) * 2 * least)
            buffer = torch.zeros(size, dtype=STATE_DTYPE, device=device)
        columns = torch.zeros(depth, 2, batch, block.size, KERNEL - 1, device=device)
        return buffer, KVState(buffer[:values].view(shape), columns)


def _rows(slot: int) -> slice:
    """A slot's two rows, with conditions and without."""
    return slice(2 * slot, 2 * slot + 2)


def _write_parts(buffer: Tensor, parts: tuple[Tensor, ...]) -> None:
    at = 0
    for part in parts:
        buffer[..., at : at + part.shape[4], :] = part
        at += part.shape[4]
