"""The rows of decode steps: which sequence is in each, and what a GPU knows of it.

    host    which sequences take part, and how far each will be       ─ only rows that differ are sent ─┐
    GPU     last code, position, length of the output, seed, pages    ─ each group of codes advances ───┘

So the next group can be launched before the codes of the last one are known here. Independent of kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stepaudiod.editx.codes import AUDIO_BASE, AUDIO_CODES
from stepaudiod.editx.lm.runner import Sequence

CODE, POSITION, CHOICE = 0, 1, 2
"""Indices of a row's int32 numbers: the row of its last id in the table of codes, that id's position or
`IDLE`, and what its next id is chosen by: the seed's two halves, the length of the output, the least length
at which it may end, and a float32: 1 divided by the temperature, or 0 for the most likely."""
SEED, OUTPUT, LEAST, INVERSE = CHOICE, CHOICE + 2, CHOICE + 3, CHOICE + 4
PAGES = CHOICE + 5
"""The index of the first of its pages."""
IDLE = -1
FIRST_INPUT = AUDIO_CODES + 1
"""The table's row of the last id of a prompt is this and the sequence's slot; before it are codes and the
end."""

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


def set_pages(row: Numbers, at: int, sequence: Sequence) -> None:
    assert sequence.allocation is not None
    pages = sequence.allocation.pages
    row[at : at + len(pages)] = pages


def new_numbers(rows: int, pages: int, device: torch.device) -> Tensor:
    """Zeros `(rows, PAGES + pages)` int32 on the host, from which they are sent without waiting."""
    here = torch.zeros(rows, PAGES + pages, dtype=torch.int32)
    return here.pin_memory() if device.type == "cuda" else here


class StepRows:
    """Rows for so many sequences of up to so many pages.

    Attributes:
        numbers: `(rows, numbers)` int32 on the GPU.
    """

    def __init__(self, rows: int, pages: int, device: torch.device) -> None:
        # two, in turn: what is sent with a group may still be read while the next group's is written
        self._here = [new_numbers(rows, pages, device) for _ in range(2)]
        self.numbers = self._here[0].to(device, copy=True)
        self._held: list[tuple[Sequence, int] | None] = [None] * rows
        """The sequence in each row, and its length when the groups that were launched are done."""
        self.clear()

    def clear(self) -> None:
        """Make all rows idle: kernels write to no pages, which others may have by now."""
        self.numbers[:, POSITION] = IDLE
        self._held = [None] * len(self._held)

    def hold(self, wanted: Mapping[Sequence, int], advance: int) -> None:
        """Have the GPU's rows be those of sequences of these lengths, and no others; then they advance."""
        self._here.reverse()
        of_slot = {sequence.slot: (sequence, length) for sequence, length in wanted.items()}
        for slot, held in enumerate(self._held):
            found = of_slot.get(slot)
            if found != held:
                self._send(slot, found)
            self._held[slot] = None if found is None else (found[0], found[1] + advance)

    def _send(self, slot: int, found: tuple[Sequence, int] | None) -> None:
        here = self._here[0][slot]
        row: Numbers = here.numpy()
        row[POSITION] = IDLE
        if found is not None:
            sequence, length = found
            assert length == len(sequence.ids), "only the GPU knows the last code"
            row[CODE] = sequence.last - AUDIO_BASE if length else FIRST_INPUT + slot
            row[POSITION], row[OUTPUT], row[LEAST] = sequence.position, length, sequence.least_tokens
            inverse = 1.0 / sequence.temperature if sequence.temperature else 0.0
            row[SEED:OUTPUT] = np.array([sequence.seed & 0xFFFFFFFFFFFFFFFF], np.uint64).view(np.int32)
            row[INVERSE:PAGES] = np.array([inverse], np.float32).view(np.int32)
            set_pages(row, PAGES, sequence)
        self.numbers[slot].copy_(here, non_blocking=True)
