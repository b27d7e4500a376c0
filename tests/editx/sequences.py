"""A runner's sequences without a scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Sequences

from stepaudiod.editx.lm.runner import LMRunner, Sequence
from stepaudiod.editx.lm.sampling import TEMPERATURE


def sequence(
    runner: LMRunner,
    prompt: list[int],
    seed: int = 0,
    tokens: int = 30,
    temperature: float = TEMPERATURE,
    slot: int = 0,
) -> Sequence:
    """Allocate a sequence's pages."""
    made = Sequence(prompt, seed, temperature, tokens, slot=slot)
    made.allocation = runner.pages.allocate(prompt, made.positions)
    assert made.allocation is not None
    made.read = made.allocation.known
    return made


def finish(runner: LMRunner, sequences: Iterable[Sequence]) -> None:
    """Decode until all have ended, those that have ended no more; gives their pages back."""
    running = list(sequences)
    while running:
        runner.decode(running)
        for done in [s for s in running if s.has_ended or len(s.ids) >= s.max_tokens]:
            running.remove(done)
            assert done.allocation is not None
            runner.pages.release(done.allocation)


def alone(
    runner: LMRunner, prompt: list[int], seed: int = 0, tokens: int = 30, temperature: float = TEMPERATURE
) -> list[int]:
    """Run one sequence from its prompt to its end."""
    made = sequence(runner, prompt, seed, tokens, temperature)
    runner.prefill([(made, len(prompt))])
    finish(runner, [made])
    return made.ids


def together(runner: LMRunner, prompts: Sequences[list[int]], tokens: int = 30) -> list[list[int]]:
    """Run sequences, the seed of each its index; one joins after each step, in any free row."""
    waiting = list(enumerate(prompts))
    every: list[Sequence] = []
    running: dict[int, Sequence] = {}
    while waiting or running:
        free = [slot for slot in range(runner.rows) if slot not in running]
        if waiting and free:
            seed, prompt = waiting.pop(0)
            running[free[-1]] = made = sequence(runner, prompt, seed, tokens, slot=free[-1])
            every.append(made)
            while not made.is_read:
                runner.prefill([(made, runner.pages.size)])
        runner.decode(list(running.values()))
        for slot, done in list(running.items()):
            if done.has_ended or len(done.ids) >= tokens:
                del running[slot]
                assert done.allocation is not None
                runner.pages.release(done.allocation)
    return [made.ids for made in every]
