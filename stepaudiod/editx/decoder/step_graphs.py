"""What is made of many small kernels, in CUDA graphs: starting them one by one takes longer than their work.

A graph starts them all at once, but for one size. So inputs are filled up to round sizes, what was filled up
is masked, and there is a graph for each size that came up. Its memory is its own, so one thread uses it at a
time. Many small kernels take hardly longer for four utterances than for one, so graphs have several slots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepaudiod.editx.cuda_graphs import CAPTURE, SMALL
from stepaudiod.editx.decoder.dit import KERNEL, MELS, DiT, KVState, Modulation, Padding

LARGE = 128
"""Sizes are multiples of `SMALL` up to this, and of this beyond."""
KEPT = torch.float16
"""Of keys and values of the past: as many digits as TF32 has."""
PAST_FRAMES, LEFT_FRAMES = 1664, 512
"""Mel frames whose keys and values graphs read, and write: of a voice of 30 s, and of what it begins with."""
MOST_SLOTS = 4


def round_up(frames: int) -> int:
    """Give the size that a number of frames is filled up to."""
    unit = SMALL if frames <= LARGE else LARGE
    return -(-frames // unit) * unit


def slots_beside(before: int) -> int:
    """Tell how many chunks with so long a past a graph takes at once."""
    return max(1, min(MOST_SLOTS, PAST_FRAMES // max(1, round_up(before))))


@dataclass(frozen=True, eq=False)
class StepInput:
    """What one step is run on, for one utterance.

    Args:
        rows: `(2, frames, 320)`; see `DiT.forward`.
        past: of earlier chunks.
    """

    rows: Tensor
    past: KVState | None = None

    @property
    def frames(self) -> int:
        """How many are new."""
        return self.rows.shape[1]

    @property
    def before(self) -> int:
        """How many the past holds."""
        return 0 if self.past is None else self.past.frames


class Recorder:
    """Records what kernels a function starts; all it records has one memory."""

    def __init__(self) -> None:
        self._memory = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Give what runs it again, and where the result will be.

        Args:
            run: started once before, since a first time sets things up that can't be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._memory, capture_error_mode=CAPTURE):
            made = run()
        return graph.replay, made


@dataclass
class _Graph:
    """One recorded step, and the tensors it reads and writes."""

    replay: Callable[[], object]
    rows: Tensor
    past: KVState | None
    padding: Padding
    velocity: Tensor
    left: KVState | None
    real: dict[int, tuple[int, int]] = field(default_factory=dict)

    def lay_in(self, slot: int, given: StepInput) -> None:
        """Write an utterance's part, and mask what isn't real of its frames and its past."""
        at, frames, before = _rows(slot), given.frames, given.before
        self.rows[at, :frames] = given.rows
        if given.past is not None and self.past is not None:
            _lay_in(self.past.caches[:, :, at], given.past.parts)
            self.past.columns[:, :, at] = given.past.columns
        if self.real.get(slot) == (frames, before):
            return
        self.real[slot], size = (frames, before), self.rows.shape[1]
        is_key = self.padding.is_key[at]
        is_key.fill_(False)
        is_key[..., :frames] = True
        is_key[..., size : size + before] = True
        self.padding.last[at] = torch.arange(frames, frames + KERNEL - 1, device=self.rows.device)

    def take(self, slot: int, frames: int) -> tuple[Tensor, KVState | None]:
        """Copy an utterance's results."""
        at, left = _rows(slot), self.left
        velocity = self.velocity[at, :frames].clone()
        if left is None:
            return velocity, None
        return velocity, KVState(left.caches[:, :, at, :, :frames].clone(), left.columns[:, :, at].clone())


class StepGraphs:
    """One graph for each size.

    Args:
        estimator: of the flow decoder.
        recorder: None for a GPU's.
    """

    def __init__(self, estimator: DiT, recorder: Recorder | None = None) -> None:
        self._estimator = estimator
        self._recorder = recorder or Recorder()
        self._graphs: dict[tuple[int, int, bool, int], _Graph] = {}
        self._modulation: Modulation | None = None
        self._past_room = self._left_room = torch.empty(0, dtype=KEPT)
        self._lock = threading.Lock()

    def step(
        self, inputs: Sequence[StepInput], modulation: Modulation, is_kept: bool, slots: int = 1
    ) -> list[tuple[Tensor, KVState | None]]:
        """Run `DiT.forward` on each; what is left behind is kept in half precision.

        Args:
            inputs: one to `slots`, all filled up to one size.
            modulation: of the time.
            is_kept: another chunk follows.
            slots: the graph's; what comes out depends on it in the last bits, and not on who else is there.
        """
        with self._lock:
            size = round_up(inputs[0].frames), round_up(inputs[0].before)
            assert len(inputs) <= slots
            assert all((round_up(x.frames), round_up(x.before)) == size for x in inputs)
            graph = self._graph(modulation, (*size, is_kept, slots))
            for slot, given in enumerate(inputs):
                graph.lay_in(slot, given)
            graph.replay()
            return [graph.take(slot, given.frames) for slot, given in enumerate(inputs)]

    def _graph(self, modulation: Modulation, key: tuple[int, int, bool, int]) -> _Graph:
        """Find the graph of a size, or record it, and set its time."""
        if self._modulation is None:
            self._modulation = Modulation(modulation.blocks.clone(), modulation.output.clone())
        self._modulation.blocks.copy_(modulation.blocks)
        self._modulation.output.copy_(modulation.output)
        if key not in self._graphs:
            self._graphs[key] = self._capture(self._modulation, *key)
        return self._graphs[key]

    def _capture(self, modulation: Modulation, frames: int, before: int, is_kept: bool, slots: int) -> _Graph:
        batch, device = 2 * slots, modulation.blocks.device
        rows = torch.zeros(batch, frames, 4 * MELS, device=device)
        past = self._new_past(batch, before, device) if before else None
        left = self._new_left(batch, frames, device) if is_kept else None
        padding = Padding(
            torch.ones(batch, 1, 1, frames + before, dtype=torch.bool, device=device),
            torch.arange(frames, frames + KERNEL - 1, device=device).repeat(batch, 1),
        )

        def run() -> Tensor:
            velocity, new = self._estimator(rows, modulation, past, padding, KEPT if is_kept else None)
            if left is not None and new is not None:
                left.caches.copy_(new.caches)
                left.columns.copy_(new.columns)
            made: Tensor = velocity
            return made

        run()
        replay, velocity = self._recorder.record(run)
        return _Graph(replay, rows, past, padding, velocity, left)

    def _new_past(self, batch: int, frames: int, device: torch.device) -> KVState:
        self._past_room, past = self._within(self._past_room, PAST_FRAMES, batch, frames, device)
        return past

    def _new_left(self, batch: int, frames: int, device: torch.device) -> KVState:
        self._left_room, left = self._within(self._left_room, LEFT_FRAMES, batch, frames, device)
        return left

    def _within(
        self, room: Tensor, least: int, batch: int, frames: int, device: torch.device
    ) -> tuple[Tensor, KVState]:
        """Keys and values in a room that all graphs share, since they run one after the other."""
        block, depth = self._estimator.first_block, len(self._estimator.blocks)
        shape = depth, 2, batch, block.attn.heads, frames, block.attn.head_size
        values = torch.Size(shape).numel()
        if room.numel() < values:
            room = torch.zeros(max(values, values // (batch * frames) * 2 * least), dtype=KEPT, device=device)
        columns = torch.zeros(depth, 2, batch, block.size, KERNEL - 1, device=device)
        return room, KVState(room[:values].view(shape), columns)


def _rows(slot: int) -> slice:
    """Where a slot's rows are, with conditions and without."""
    return slice(2 * slot, 2 * slot + 2)


def _lay_in(room: Tensor, parts: tuple[Tensor, ...]) -> None:
    """Write keys and values one behind the other."""
    at = 0
    for part in parts:
        room[..., at : at + part.shape[4], :] = part
        at += part.shape[4]
