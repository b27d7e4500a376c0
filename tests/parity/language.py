"""The language model's keys: logits, hidden states, greedy and forced decoding, the repetition rule."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepaudiod.editx.codes import AUDIO_BASE, AUDIO_CODES, END_OF_TURN
from stepaudiod.editx.lm.sampling import TEMPERATURE
from stepaudiod.editx.lm.step1 import KVCache, Step1ForCausalLM
from tests.parity.audio import to_array
from tests.parity.golden import Arrays, Golden, Networks
from tests.parity.hooks import recorded

REPETITION_WINDOW = 10


def logits(model: Step1ForCausalLM, hidden: Tensor) -> Tensor:
    """Score the whole vocabulary: `(..., hidden)` to `(..., vocabulary)` float32."""
    scores: Tensor = model.lm_head.to(hidden.device)(hidden).float()
    return scores


def mask_repetition(scores: Tensor, history: Sequence[int]) -> Tensor:
    """Forbid the last id if it occurs at least twice among the last ten, itself included.

    Args:
        scores: `(vocabulary,)`.
        history: all ids so far, the prompt's too; none is forbidden before there are ten.

    Source: `RepetitionAwareLogitsProcessor` of the reference.
    """
    window = history[-REPETITION_WINDOW:]
    if len(window) < REPETITION_WINDOW or list(window).count(window[-1]) < 2:
        return scores
    scores = scores.clone()
    scores[window[-1]] = -torch.inf
    return scores


@dataclass
class Primed:
    """A prompt that was read: any number of continuations may start from it, one after the other."""

    model: Step1ForCausalLM
    cache: KVCache
    length: int
    hidden: Tensor
    states: list[Tensor]

    @classmethod
    def read(cls, model: Step1ForCausalLM, prompt: list[int], capacity: int) -> Primed:
        """Read a prompt in one block; `capacity` positions follow it in the cache."""
        cache = model.new_cache(len(prompt) + capacity)
        with ExitStack() as hooks:
            layers = [hooks.enter_context(recorded(layer)) for layer in model.model.layers]
            hidden = model.prefill(prompt, cache, block=len(prompt))
        states = [calls[0][0][0] for calls in layers]  # the embedding, and each layer's output but the last
        return cls(model, cache, len(prompt), hidden, [*states, hidden])

    def feed(self, token: int, index: int) -> Tensor:
        """Feed the token that stands `index` places behind the prompt; gives its hidden state."""
        return self.model.prefill([token], self.cache, start=self.length + index)[-1]


def greedy(
    primed: Primed, prompt: list[int], tokens: int, is_repetition_masked: bool = False
) -> tuple[list[int], Tensor]:
    """Decode the most likely ids through the cache; gives them and the logits they were chosen from."""
    hidden = primed.hidden[-1]
    ids = list(prompt)
    rows: list[Tensor] = []
    for index in range(tokens):
        if index:
            hidden = primed.feed(ids[-1], index - 1)
        rows.append(logits(primed.model, hidden))
        scores = mask_repetition(rows[-1], ids) if is_repetition_masked else rows[-1]
        ids.append(int(scores.argmax()))
    return ids[len(prompt) :], torch.stack(rows) if rows else torch.zeros(0)


def keys(golden: Golden, networks: Networks) -> Arrays:
    prompt = golden.array(golden.text("lm_prompt_key")).tolist()
    wanted = ("lm_greedy_ids", "lm_greedy_rep_ids", "lm_forced_ids")
    capacity = max((golden.array(key).shape[0] for key in wanted if key in golden), default=0)
    primed = Primed.read(networks.step1, prompt, capacity)
    return prompt_keys(golden, primed) | decoding_keys(golden, primed, prompt)


def prompt_keys(golden: Golden, primed: Primed) -> Arrays:
    rows = golden.array("lm_logits_tail").shape[0] if "lm_logits_tail" in golden else 1
    tail = golden.array("lm_hidden_tail").shape[1] if "lm_hidden_tail" in golden else 8
    scores = logits(primed.model, primed.hidden[-rows:])
    sampled = (scores[-1].float() / TEMPERATURE).softmax(dim=-1)
    top = golden.array("lm_top50_ids").shape[0] if "lm_top50_ids" in golden else 50
    best = scores[-1].topk(top)
    return {
        "lm_prompt_key": golden.array("lm_prompt_key"),
        "lm_logits_tail": to_array(scores),
        "lm_hidden_tail": to_array(torch.stack([state[-tail:] for state in primed.states])),
        "lm_top50_ids": to_array(best.indices),
        "lm_top50_prob_t07": to_array(sampled[best.indices]),
        "lm_eot_prob_t07": to_array(sampled[END_OF_TURN]),
    }


def decoding_keys(golden: Golden, primed: Primed, prompt: list[int]) -> Arrays:
    """Greedy decoding with and without the repetition rule, and teacher-forced decoding."""
    made: Arrays = {}
    if "lm_greedy_ids" in golden:
        ids, scores = greedy(primed, prompt, golden.array("lm_greedy_ids").shape[0])
        made["lm_greedy_ids"] = np.array(ids, dtype=np.int64)
        rows = golden.array("lm_greedy_logits").shape[0] if "lm_greedy_logits" in golden else 2
        made["lm_greedy_logits"] = to_array(scores[:rows])
        best = scores.topk(2).values
        made["lm_greedy_margin"] = to_array(best[:, 0] - best[:, 1])
    if "lm_greedy_rep_ids" in golden:
        ids, _ = greedy(primed, prompt, golden.array("lm_greedy_rep_ids").shape[0], is_repetition_masked=True)
        made["lm_greedy_rep_ids"] = np.array(ids, dtype=np.int64)
    if "lm_forced_ids" in golden:
        made |= _forced(golden, primed)
    return made


def _forced(golden: Golden, primed: Primed) -> Arrays:
    forced = golden.array("lm_forced_ids").tolist()
    rows = torch.stack([logits(primed.model, primed.feed(token, i)) for i, token in enumerate(forced)])
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
