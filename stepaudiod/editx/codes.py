"""The two code streams and the ids, groups and columns they take. Arithmetic only.

linguistic  16.67 Hz   a  b        a' b'
semantic    25 Hz       c d e       c' d' e'
one group, 0.12 s:     [a b c d e] [a' b' c' d' e']      as the language model reads and writes it
flow decoder, 25 Hz:   (a, c) (b, d) (filler, e)         three frames a group
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepaudiod.errors import InvalidRequest

BOS, END_OF_TURN, BEGIN_OF_TURN = 1, 3, 4
AUDIO_BASE = 65536
"""The id of audio code 0; ids below are text."""
VOCABULARY = 74752

LINGUISTIC_CODES, SEMANTIC_CODES = 1024, 4096
SEMANTIC_OFFSET = LINGUISTIC_CODES
"""Where semantic codes begin among the audio ids."""
AUDIO_CODES = LINGUISTIC_CODES + SEMANTIC_CODES
GROUP, GROUP_FRAMES = 5, 3
LINGUISTIC_IN_GROUP = 2
SECONDS_PER_GROUP = 0.12
MEL_FRAMES_PER_FRAME = 2
_PADDING = (0, 0, 0, 1024, 1024, 1024)


def interleave(linguistic: Tensor, semantic: Tensor) -> Tensor:
    """Merge the two code streams into the order the language model reads.

    Args:
        linguistic: `(n,)` int64 at 16.7 Hz.
        semantic: `(m,)` int64 at 25 Hz.

    Returns:
        `(5 * min(n // 2, m // 3),)` int64: two linguistic codes, then three semantic ones, repeating; the
        semantic ones moved up by 1024.

    Source: Step-Audio (arXiv 2502.11946), section 3.1.
    """
    groups = min(linguistic.shape[0] // 2, semantic.shape[0] // 3)
    first = linguistic[: 2 * groups].reshape(groups, 2)
    second = semantic[: 3 * groups].reshape(groups, 3) + SEMANTIC_OFFSET
    return torch.cat((first, second), dim=1).flatten()  # (groups, 5) -> (5 * groups,)


def code_ids(codes: Tensor) -> list[int]:
    """Turn interleaved codes into the language model's ids."""
    ids: list[int] = (codes + AUDIO_BASE).tolist()
    return ids


def id_codes(ids: Sequence[int]) -> Tensor:
    """Turn the language model's ids back into interleaved codes, `(n,)` int64."""
    return torch.tensor(list(ids), dtype=torch.int64) - AUDIO_BASE


def complete(codes: Tensor) -> Tensor:
    """Fill the last group up, as the reference does: with linguistic 0 and the first semantic code."""
    missing = -codes.shape[0] % GROUP
    if missing == 0:
        return codes
    return torch.cat((codes, codes.new_tensor(_PADDING[-missing:])))


def to_columns(codes: Tensor) -> Tensor:
    """Lay interleaved codes out in time for the flow decoder.

    Args:
        codes: `(n,)` int64; an incomplete last group is filled up.

    Returns:
        `(3 * ceil(n / 5), 2)` int64 at 25 Hz: linguistic codes with 1024 as filler, semantic codes from 1025.

    Raises:
        InvalidRequest: a value has no row in the decoder's table.
    """
    if codes.numel() and int(codes.max()) >= AUDIO_CODES:
        raise InvalidRequest(f"codes must be below {AUDIO_CODES}, found {int(codes.max())}")
    groups = complete(codes).reshape(-1, GROUP)
    linguistic = torch.cat((groups[:, :2], groups.new_full((groups.shape[0], 1), 1024)), dim=1)
    semantic = groups[:, 2:] + 1
    return torch.stack((linguistic.flatten(), semantic.flatten()), dim=1).clamp_min(0)  # (3 * groups, 2)
