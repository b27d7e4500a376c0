"""The language model on a processor, one operation at a time.

All products have sizes that don't depend on other sequences, since one of another size may round differently:
a decode step always has all rows, prompts are read alone, in blocks that begin at multiples of their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Sequences

import torch
from torch import Tensor

from stepaudiod.editx.codes import GROUP
from stepaudiod.editx.lm.pages import Pages
from stepaudiod.editx.lm.runner import Sequence
from stepaudiod.editx.lm.sampling import choose
from stepaudiod.editx.lm.step1 import PROMPT_BLOCK, Step1ForCausalLM


class EagerRunner:
    """See `LMRunner`; each of the rows may have `length` positions."""

    def __init__(self, model: Step1ForCausalLM, rows: int, length: int) -> None:
        self._model, self.rows = model, rows
        self.length = min(length, model.config.max_seq_len)
        self.pages = Pages(rows * -(-self.length // PROMPT_BLOCK), PROMPT_BLOCK)
        self._cache = model.new_cache(
            self.pages.count * PROMPT_BLOCK
        )  # memory that isn't used yet is not taken

    def prefill(self, pieces: Sequences[tuple[Sequence, int]]) -> None:
        for sequence, count in pieces:
            places, end = self._places(sequence), sequence.read + count
            while sequence.read < end and not sequence.is_read:
                block = sequence.prompt[sequence.read : -1][:PROMPT_BLOCK]
                self._model.prefill(block, self._cache, places, sequence.read)
                sequence.read += len(block)

    def decode(self, sequences: Sequences[Sequence]) -> None:
        places = [self._places(sequence) for sequence in sequences]
        groups: list[list[int]] = [[] for _ in sequences]
        inputs = torch.zeros(self.rows, dtype=torch.int64)
        for sequence in sequences:
            inputs[sequence.slot] = sequence.last
        for place in range(GROUP):
            pieces = [
                self._model.piece(slice(s.slot, s.slot + 1), s.position + place, at)
                for s, at in zip(sequences, places, strict=True)
            ]
            hidden = self._model.model(inputs, self._cache, pieces)  # (rows, hidden)
            scores = self._model.audio_logits(hidden)
            for sequence, group in zip(sequences, groups, strict=True):
                group.append(_choose(sequence, scores[sequence.slot], place))
                inputs[sequence.slot] = group[-1]
        for sequence, group in zip(sequences, groups, strict=True):
            sequence.add(group)

    def capture_next(self) -> bool:
        return False

    def launches(self) -> Iterable[Callable[[], None]]:
        return ()

    def _places(self, sequence: Sequence) -> Tensor:
        """Where the cache has a sequence's positions."""
        assert sequence.allocation is not None
        firsts = torch.tensor(sequence.allocation.pages)[:, None] * PROMPT_BLOCK
        return (firsts + torch.arange(PROMPT_BLOCK)).flatten()


def _choose(sequence: Sequence, scores: Tensor, place: int) -> int:
    position = len(sequence.ids) + place
    may_end = place == 0 and position >= sequence.least_tokens
    return choose(scores, position, may_end, sequence.seed, sequence.temperature)
