"""The running batch on a GPU: sequences join and leave between decode steps of five codes.

    join     allocate all positions that it may need, or wait; the prompt is read in blocks, with a decode
             step between two of them if a running sequence has no token buffered
    step     every sequence whose buffer has space gets five codes; see `cuda_runner`
    leave    the allocation is freed, and stays known for prompts with the same beginning

Nothing is allocated during a sequence, so none runs out of memory midway. Independent of audio.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stepaudiod.editx.codes import END_OF_TURN, GROUP
from stepaudiod.editx.lm.cuda_runner import END_CODE, NOISES, SIZES, CudaGraphRunner, SlotInput
from stepaudiod.editx.lm.kernels import ROWS
from stepaudiod.editx.lm.kv_cache import Allocation, KVPool
from stepaudiod.editx.lm.sampling import Sampler
from stepaudiod.editx.lm.scheduler import Batch, Sequence
from stepaudiod.editx.lm.step1 import PROMPT_BLOCK, Step1ForCausalLM

FIRST_BLOCK = 2 * PROMPT_BLOCK
"""Size of a prompt's first block: most prompts are read at once."""
MAX_BUFFERED_TOKENS = 8 * GROUP
"""Tokens of a sequence that may be buffered: about a second."""


class CudaBatch(Batch):
    """The running batch on a GPU, of 16 sequences at most; `positions` are of all together."""

    MAX_ROWS = ROWS

    def __init__(self, model: Step1ForCausalLM, rows: int, length: int, positions: int) -> None:
        super().__init__(model, min(rows, ROWS), min(length, positions))
        self._pool = KVPool(model.config, positions, model.device, model.dtype)
        self._runner = CudaGraphRunner(model, self._pool)
        self._allocations: dict[int, Allocation] = {}
        self._noises: dict[int, Tensor] = {}

    def _admit(self, sequence: Sequence, prompt: list[int]) -> bool:
        if len(self._active) >= self.rows:
            return False
        groups = math.ceil(sequence.max_tokens / GROUP)
        allocation = self._pool.allocate(min(len(prompt) - 1 + groups * GROUP, self._pool.positions))
        if allocation is None:
            return False
        slot = next(slot for slot in range(self.rows) if slot not in self._active)
        sequence.row, self._allocations[slot] = slot, allocation
        try:
            self._read_prompt(prompt, allocation)
        except BaseException:
            self._pool.release(self._allocations.pop(slot))
            raise
        self._runner.set_prompt_end(slot, self.model.model.embed(torch.tensor(prompt[-1:]))[0])
        sequence.position = len(prompt) - 1
        self._active[slot] = sequence
        return True

    def _read_prompt(self, prompt: list[int], allocation: Allocation) -> None:
        """Read all but the prompt's last id, which the first decode step feeds."""
        known = self._pool.copy_known(prompt, allocation, PROMPT_BLOCK, FIRST_BLOCK)
        cache = self._pool.cache(allocation)
        while known < len(prompt) - 1:
            if any(not s._buffered and not self._is_done(s) for s in self._active.values()):
                self._step(None)
            block = PROMPT_BLOCK if known else FIRST_BLOCK
            part = prompt[known : min(known + block, len(prompt) - 1)]
            self.model.prefill(part, cache, start=known, block=block)
            known += len(part)
            allocation.ids = prompt[:known]

    def _drop(self, sequence: Sequence) -> None:
        if self._active.get(sequence.row) is sequence:
            self._pool.release(self._allocations.pop(sequence.row))
            self._noises.pop(sequence.row, None)
        super()._drop(sequence)

    def _step(self, wanted: Sequence | None) -> bool:
        """Run a decode step for `wanted` and for every sequence whose buffer has space."""
        stepped = {
            slot: s
            for slot, s in self._active.items()
            if not self._is_done(s) and (s is wanted or len(s._buffered) <= MAX_BUFFERED_TOKENS - GROUP)
        }
        if not stepped:
            return False
        given = {slot: self._input(slot, s) for slot, s in stepped.items()}
        found = self._runner.run(given, lambda: self._draw_ahead(stepped))
        for slot, sequence in stepped.items():
            sequence.position += GROUP
            ids = found[slot]
            sequence.sampler.history += ids
            sequence._buffered.extend(ids[:1] if ids[0] == END_OF_TURN else ids)
        return True

    def _is_done(self, sequence: Sequence) -> bool:
        sampler = sequence.sampler
        has_ended = sampler.produced > 0 and sampler.history[-GROUP] == END_OF_TURN
        return has_ended or sampler.produced >= sequence.max_tokens

    def _input(self, slot: int, sequence: Sequence) -> SlotInput:
        sampler = sequence.sampler
        last = sampler.history[-1] if sampler.produced else None
        noise = self._noises.pop(slot) if slot in self._noises else draw_noise(sampler)
        inverse = 1.0 / sampler.temperature if sampler.temperature else 1.0
        return SlotInput(last, sequence.position, self._allocations[slot].start, inverse, noise)

    def _draw_ahead(self, stepped: dict[int, Sequence]) -> None:
        """Draw the next step's random numbers while the GPU runs this one."""
        for slot, sequence in stepped.items():
            self._noises[slot] = draw_noise(sequence.sampler, is_first=False)


def draw_noise(sampler: Sampler, is_first: bool | None = None) -> Tensor:
    """Draw a group's random numbers, in the order in which `Sampler` draws them.

    `is_first` says whether it is the first group, before which no end is allowed; None: as the sampler says.

    Returns:
        `(NOISES,)` float32, to be added to the scores.
    """
    is_first = sampler.produced == 0 if is_first is None else is_first
    if sampler.temperature == 0:
        noise = torch.zeros(NOISES)
    else:
        sizes = (SIZES[0] - is_first, *SIZES[1:])
        drawn = torch.cat([sampler.gumbel(size) for size in sizes])
        noise = drawn if not is_first else torch.cat((drawn[:END_CODE], drawn.new_zeros(1), drawn[END_CODE:]))
    if is_first:
        noise[END_CODE] = -torch.inf
    return noise
