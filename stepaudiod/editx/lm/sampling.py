"""From scores to the next id. Knows no network.

The random numbers of a request come from a generator of its own on the CPU. So a request gives the same codes
alone, beside others, and on another device, as far as the scores agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepaudiod.editx.codes import (
    AUDIO_BASE,
    AUDIO_CODES,
    END_OF_TURN,
    GROUP,
    LINGUISTIC_CODES,
    LINGUISTIC_IN_GROUP,
)

REPETITION_WINDOW = 10


@dataclass(frozen=True)
class SamplingOptions:
    """How the next id is chosen; the defaults are the newest upstream's, and the pattern.

    Args:
        temperature: 0 takes the most likely id.
        top_k: keep this many; 0 keeps all. The code of December 2025 kept 50 without saying so.
        top_p: keep the most likely ids that make up this much.
        is_pattern_enforced: two linguistic codes, then three semantic ones, and an end only between groups.
            The reference leaves the pattern to the model, which mostly keeps it; a slip shifts everything
            that follows.
        is_repetition_masked: the rule of December 2025; see `mask_repetition`.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    is_pattern_enforced: bool = True
    is_repetition_masked: bool = False


def mask_repetition(scores: Tensor, history: Sequence[int]) -> Tensor:
    """Forbid the last id if it occurs at least twice among the last ten, itself counted.

    Args:
        scores: `(vocabulary,)`.
        history: every id so far, the prompt's too; nothing is forbidden before there are ten.

    Returns:
        The scores, the one id at -inf; the argument is left as it was.

    Source: `RepetitionAwareLogitsProcessor` of the reference.
    """
    window = history[-REPETITION_WINDOW:]
    if len(window) < REPETITION_WINDOW or list(window).count(window[-1]) < 2:
        return scores
    scores = scores.clone()
    scores[window[-1]] = -torch.inf
    return scores


def pattern_bounds(position: int) -> tuple[int, int]:
    """Say which codes may stand at a position of the output: first, and one past the last."""
    if position % GROUP < LINGUISTIC_IN_GROUP:
        return 0, LINGUISTIC_CODES
    return LINGUISTIC_CODES, AUDIO_CODES


def probabilities(scores: Tensor, options: SamplingOptions) -> Tensor:
    """Turn `(vocabulary,)` scores into the distribution that is sampled, in float32."""
    scores = scores.float() / options.temperature
    if options.top_k:
        kth = scores.topk(min(options.top_k, scores.shape[-1])).values[-1]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    distribution = scores.softmax(dim=-1)
    if options.top_p < 1.0:
        ordered, order = distribution.sort(descending=True)
        beyond = ordered.cumsum(0) - ordered >= options.top_p
        distribution = distribution.index_fill(0, order[beyond], 0.0)
        distribution = distribution / distribution.sum()
    return distribution


class Sampler:
    """Chooses the ids of one request.

    Args:
        options: how.
        seed: of its random numbers.
        prompt: ids that came before.
    """

    def __init__(self, options: SamplingOptions, seed: int, prompt: Sequence[int] = ()) -> None:
        self.options = options
        self.history = list(prompt)
        self._prompt_length = len(prompt)
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def produced(self) -> int:
        """How many ids were chosen so far."""
        return len(self.history) - self._prompt_length

    def choose(self, scores: Tensor) -> int:
        """Choose the next id and remember it.

        Args:
            scores: `(5121,)` as `Step1ForCausalLM.audio_logits` gives them when the pattern is enforced, and
                the whole vocabulary's otherwise.

        Returns:
            An id of the whole vocabulary; `END_OF_TURN` ends the output.
        """
        if self.options.is_pattern_enforced:
            chosen = self._choose_by_pattern(scores)
        else:
            if self.options.is_repetition_masked:
                scores = mask_repetition(scores, self.history)
            chosen = self._draw(scores)
        self.history.append(chosen)
        return chosen

    def _choose_by_pattern(self, scores: Tensor) -> int:
        position = self.produced
        first, end = pattern_bounds(position)
        if self.options.is_repetition_masked:
            scores = self._mask_code(scores)
        # the end may come between groups, though not before there is one
        may_end = position % GROUP == 0 and position > 0
        allowed = torch.cat((scores[first:end], scores[AUDIO_CODES:])) if may_end else scores[first:end]
        index = self._draw(allowed)
        return END_OF_TURN if index == end - first else AUDIO_BASE + first + index

    def _mask_code(self, scores: Tensor) -> Tensor:
        if not self.history or self.history[-1] < AUDIO_BASE:
            return scores
        return mask_repetition(scores, [max(i - AUDIO_BASE, -1) for i in self.history[-REPETITION_WINDOW:]])

    def _draw(self, scores: Tensor) -> int:
        if self.options.temperature == 0:
            return int(scores.argmax())
        chances = probabilities(scores, self.options)
        # the largest of log p + Gumbel noise: unlike a place in the cumulated distribution, where each
        # rounding moves every border, it comes out the same unless two ids are all but level
        return int((chances.log() + self.gumbel(scores.shape[-1]).to(chances)).argmax())

    def gumbel(self, size: int) -> Tensor:
        """Draw the next `(size,)` of the noise that turns the largest score into a fair choice."""
        noise = torch.empty(size, dtype=torch.float64).exponential_(generator=self._generator)
        return -noise.log().float()
