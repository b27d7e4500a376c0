"""The language model's keys: logits, hidden states, greedy and forced decoding, the repetition rule."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stepaudiod.model.codes import AUDIO_CODES
from stepaudiod.model.sampling import SamplingOptions, mask_repetition, probabilities
from stepaudiod.model.step1 import KVCache, Step1ForCausalLM
from stepaudiod.model.tokenizer import AUDIO_BASE, END_OF_TURN
from tests.parity.audio import to_array
from tests.parity.golden import Arrays, Golden, Networks


def greedy(
    model: Step1ForCausalLM, prompt: list[int], tokens: int, is_repetition_masked: bool = False
) -> tuple[list[int], Tensor]:
    """Decode the most likely ids through the cache; gives them and the logits they were chosen from."""
    cache = model.new_cache(1, len(prompt) + tokens)
    hidden = model.prefill(prompt, cache)[-1]
    ids, rows = list(prompt), []
    for _ in range(tokens):
        rows.append(model.logits(hidden))
        scores = mask_repetition(rows[-1], ids) if is_repetition_masked else rows[-1]
        ids.append(int(scores.argmax()))
        hidden = _next(model, ids[-1], len(ids) - 1, cache)
    return ids[len(prompt) :], torch.stack(rows) if rows else torch.zeros(0)


def _next(model: Step1ForCausalLM, token: int, position: int, cache: KVCache) -> Tensor:
    device = model.device
    return model.decode(
        torch.tensor([token], device=device),
        torch.tensor([position], device=device),
        cache,
        position + 1,
    )[0]


def prompt_keys(golden: Golden, networks: Networks) -> Arrays:
    """What the model makes of the prompt itself."""
    model = networks.step1
    prompt = golden.array(golden.text("lm_prompt_key")).tolist()
    states: list[Tensor] = []
    hidden = model.prefill(prompt, model.new_cache(1, len(prompt)), block=len(prompt), states=states)
    rows = golden.array("lm_logits_tail").shape[0] if "lm_logits_tail" in golden else 1
    tail = golden.array("lm_hidden_tail").shape[1] if "lm_hidden_tail" in golden else 8
    last = model.logits(hidden[-1])
    sampled = probabilities(last, SamplingOptions(temperature=0.7))
    top = golden.array("lm_top50_ids").shape[0] if "lm_top50_ids" in golden else 50
    best = last.topk(top)
    return {
        "lm_prompt_key": golden.array("lm_prompt_key"),
        "lm_logits_tail": to_array(model.logits(hidden[-rows:])),
        "lm_hidden_tail": to_array(torch.stack([state[0, -tail:] for state in states])),
        "lm_top50_ids": to_array(best.indices),
        "lm_top50_prob_t07": to_array(sampled[best.indices]),
        "lm_eot_prob_t07": to_array(sampled[END_OF_TURN]),
    }


def decoding_keys(golden: Golden, networks: Networks) -> Arrays:
    """Greedy decoding with and without the repetition rule, and teacher-forced decoding."""
    model = networks.step1
    prompt = golden.array(golden.text("lm_prompt_key")).tolist()
    made: Arrays = {}
    if "lm_greedy_ids" in golden:
        ids, logits = greedy(model, prompt, golden.array("lm_greedy_ids").shape[0])
        made["lm_greedy_ids"] = np.array(ids, dtype=np.int64)
        rows = golden.array("lm_greedy_logits").shape[0] if "lm_greedy_logits" in golden else 2
        made["lm_greedy_logits"] = to_array(logits[:rows])
        best = logits.topk(2).values
        made["lm_greedy_margin"] = to_array(best[:, 0] - best[:, 1])
    if "lm_greedy_rep_ids" in golden:
        ids, _ = greedy(model, prompt, golden.array("lm_greedy_rep_ids").shape[0], is_repetition_masked=True)
        made["lm_greedy_rep_ids"] = np.array(ids, dtype=np.int64)
    if "lm_forced_ids" in golden:
        made |= _forced(golden, model, prompt)
    return made


def _forced(golden: Golden, model: Step1ForCausalLM, prompt: list[int]) -> Arrays:
    forced = golden.array("lm_forced_ids").tolist()
    cache = model.new_cache(1, len(prompt) + len(forced))
    model.prefill(prompt, cache)
    rows = torch.stack(
        [model.logits(_next(model, token, len(prompt) + i, cache)) for i, token in enumerate(forced)]
    )
    special = golden.array("lm_forced_logits_special").shape[1] if "lm_forced_logits_special" in golden else 8
    return {
        "lm_forced_ids": golden.array("lm_forced_ids"),
        "lm_forced_argmax": to_array(rows.argmax(dim=1)),
        "lm_forced_logits_audio": to_array(rows[:, AUDIO_BASE : AUDIO_BASE + AUDIO_CODES]),
        "lm_forced_logits_special": to_array(rows[:, :special]),
    }


def repetition(golden: Golden) -> Arrays:
    """Which logit the repetition rule forbids, for whole sequences and for ones too short for it."""
    sequences = golden.array("rep_seqs")
    made: Arrays = {"rep_seqs": sequences}
    for key, length in (("rep_masked", sequences.shape[1]), ("rep_short_masked", 9)):
        if key in golden:
            zeros = torch.zeros(golden.array(key).shape[1])
            masks = [torch.isinf(mask_repetition(zeros, row[:length].tolist())).numpy() for row in sequences]
            made[key] = np.stack(masks)
    return made
