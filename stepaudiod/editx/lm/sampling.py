"""From scores to the next id. Independent of the network.

The random numbers of a request come from a generator of its own on the CPU: so a request has the same codes
alone, beside others, and on another device, as far as the scores agree.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from stepaudiod.editx.philox import gumbel

TEMPERATURE = 0.7


def pattern_bounds(position: int) -> tuple[int, int]:
    """The codes that are allowed at a position of the output: the first, and one past the last."""
    if position % GROUP < LINGUISTIC_IN_GROUP:
        return 0, LINGUISTIC_CODES
    return LINGUISTIC_CODES, AUDIO_CODES


class Sampler:
    """Chooses the ids of one request, after those of its prompt; temperature 0 takes the most likely.

    The pattern is enforced: two linguistic codes, then three semantic ones, and an end only between groups.
    The reference leaves it to the model, which mostly follows it; a slip shifts everything that follows.
    """

    def __init__(self, temperature: float, seed: int, prompt: Sequence[int] = ()) -> None:
        self.temperature = temperature
        self.history = list(prompt)
        self._prompt_length = len(prompt)
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def produced(self) -> int:
        return len(self.history) - self._prompt_length

    def choose(self, scores: Tensor) -> int:
        """Choose the next id of the vocabulary and append it to the history; `END_OF_TURN` ends the output.

        The scores are `(5121,)`, from `Step1ForCausalLM.audio_logits`.
        """
        position = self.produced
        first, end = pattern_bounds(position)
        # the end is allowed between groups, after the first
        may_end = position % GROUP == 0 and position > 0
        allowed = torch.cat((scores[first:end], scores[AUDIO_CODES:])) if may_end else scores[first:end]
        index = self._draw(allowed)
        chosen = END_OF_TURN if index == end - first else AUDIO_BASE + first + index
        self.history.append(chosen)
        return chosen

    def _draw(self, scores: Tensor) -> int:
        if self.temperature == 0:
            return int(scores.argmax())
        chances = (scores.float() / self.temperature).softmax(dim=-1)
        # the largest of log p + Gumbel noise: unlike an index into the cumulative distribution, where each
        # rounding moves every border, it changes only where two ids are nearly equal
        return int((chances.log() + self.gumbel(scores.shape[-1]).to(chances)).argmax())

    def gumbel(self, size: int) -> Tensor:
        """Draw the next `(size,)` of Gumbel noise, which turns argmax into sampling."""
        noise = torch.empty(size, dtype=torch.float64).exponential_(generator=self._generator)
        return -noise.log().float()


def to_token(code: int) -> int:
    """Turn an index into the scores into an id of the vocabulary; behind the codes is the end."""
    return END_OF_TURN if code == AUDIO_CODES else AUDIO_BASE + code


def choose(scores: Tensor, position: int, may_end: bool, seed: int, temperature: float) -> int:
    """Choose the id at a position of the output.

    The pattern is enforced: two linguistic codes, then three semantic ones, and an end only between groups.
    The reference leaves it to the model, which mostly follows it; a slip shifts everything that follows.

    Args:
        scores: `(5121,)` float32, of all codes and the end.
        position: of the output.
        may_end: whether the end may be chosen, which is only between groups.
        seed: of the random numbers.
        temperature: 0 takes the most likely.
    """
    first, end = pattern_bounds(position)
    codes = torch.arange(first, end)
    if may_end:
        codes = torch.cat((codes, torch.tensor([AUDIO_CODES])))
    allowed = scores[codes]
    if temperature:
        # the largest of score and Gumbel noise: unlike an index into the cumulative distribution, where each
        # rounding moves every border, it changes only where two codes are nearly equal
        allowed = allowed * (1.0 / temperature) + gumbel(seed, position, codes)
    return to_token(int(codes[allowed.argmax()]))
