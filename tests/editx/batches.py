"""Waiting for a row in a batch."""

from __future__ import annotations

from stepaudiod.editx.lm.sampling import TEMPERATURE
from stepaudiod.editx.lm.scheduler import Batch, Sequence


def join(
    batch: Batch, prompt: list[int], seed: int, max_tokens: int, temperature: float = TEMPERATURE
) -> Sequence:
    waiter, consumed = object(), 0
    try:
        while True:
            sequence = batch.try_join(prompt, temperature, seed, max_tokens, waiter)
            if sequence is not None:
                return sequence
            consumed = batch.step_others(consumed)
    finally:
        batch.stop_waiting(waiter)
