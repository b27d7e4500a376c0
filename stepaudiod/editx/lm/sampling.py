"""From scores to the next id. Independent of the network.

The random numbers of an id are a function of the request's seed and the id's position: so a request has the
same codes alone, beside others, and on a GPU, where `choice_kernels` chooses, as far as the scores agree.
"""

from __future__ import annotations

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
