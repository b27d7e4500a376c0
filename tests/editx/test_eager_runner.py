"""Prompts and decode steps on a processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_BASE, GROUP
from stepaudiod.editx.lm.runner import LMRunner
from stepaudiod.editx.lm.step1 import Step1ForCausalLM
from stepaudiod.editx.loading import Networks, load_step1
from stepaudiod.editx.runners import make_lm_runner
from tests.editx.sequences import alone, finish, sequence, together
from tests.parity.language import Primed

PROMPT = [1, 4, 100, *range(AUDIO_BASE, AUDIO_BASE + 300), 3, 4, 78]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def model(networks: Networks) -> Step1ForCausalLM:
    return networks.step1


def make(model: Step1ForCausalLM, rows: int = 4, length: int = 1024) -> LMRunner:
    return make_lm_runner(model, rows, length, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_seed_means_the_same_alone_and_beside_others(micro: Checkpoint, dtype: torch.dtype) -> None:
    runner = make(load_step1(micro, torch.device("cpu"), dtype), 4, 512)
    prompts = [PROMPT, PROMPT[:50], PROMPT[:200], PROMPT[:7], PROMPT[:120]]
    fresh = [alone(runner, prompt, seed, 80) for seed, prompt in enumerate(prompts)]
    assert together(runner, prompts, 80) == fresh
    assert len({tuple(ids) for ids in fresh}) == len(prompts)


def test_the_most_likely_codes_are_chosen(model: Step1ForCausalLM) -> None:
    made = alone(make(model), PROMPT, 0, 20, temperature=0.0)
    right = Primed.read(model, PROMPT, 20)
    for index, token in enumerate(made):
        scores = model.audio_logits(
            right.hidden[-1] if index == 0 else right.feed(made[index - 1], index - 1)
        )
        codes = scores[:1024] if index % GROUP < 2 else scores[1024:5120]
        assert codes[token - AUDIO_BASE - (index % GROUP >= 2) * 1024] == codes.max()


def test_a_shared_beginning_is_read_once_and_changes_nothing(model: Step1ForCausalLM) -> None:
    prompts = [[*PROMPT, 5 + seed] for seed in range(3)]
    fresh = [alone(make(model), prompt, seed) for seed, prompt in enumerate(prompts)]
    runner = make(model)
    sequences = [sequence(runner, prompt, seed, slot=seed) for seed, prompt in enumerate(prompts)]
    assert [s.read for s in sequences] == [0, 256, 256]
    runner.prefill([(s, len(PROMPT)) for s in sequences])
    finish(runner, sequences)
    assert [s.ids for s in sequences] == fresh


def test_output_stops_at_the_most_tokens_and_not_before_the_least(model: Step1ForCausalLM) -> None:
    runner = make(model)
    made = sequence(runner, PROMPT, 1, 203)
    made.least_tokens = 203
    runner.prefill([(made, len(PROMPT))])
    finish(runner, [made])
    assert len(made.ids) == 203
    assert not made.has_ended
