"""The two code streams merged into the language model's order, and laid out in time for the flow decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from stepaudiod.editx.codes import AUDIO_BASE, AUDIO_CODES, GROUP, LINGUISTIC_CODES
from stepaudiod.errors import InvalidRequest

_PADDING = (0, 0, 0, 1024, 1024, 1024)


def interleave(linguistic: Tensor, semantic: Tensor) -> Tensor:
    """Merge the two code streams into the order that the language model reads.

    Args:
        linguistic: `(n,)` int64 at 16.7 Hz.
        semantic: `(m,)` int64 at 25 Hz.

    Returns:
        `(5 * min(n // 2, m // 3),)` int64: two linguistic codes, then three semantic codes plus 1024,
        repeating.

    Source: Step-Audio (arXiv 2502.11946), section 3.1.
    """
    groups = min(linguistic.shape[0] // 2, semantic.shape[0] // 3)
    first = linguistic[: 2 * groups].reshape(groups, 2)
    second = semantic[: 3 * groups].reshape(groups, 3) + LINGUISTIC_CODES
    return torch.cat((first, second), dim=1).flatten()  # (groups, 5) -> (5 * groups,)


def code_ids(codes: Tensor) -> list[int]:
    """Turn interleaved codes into the language model's ids."""
    ids: list[int] = (codes + AUDIO_BASE).tolist()
    return ids


def complete(codes: Tensor) -> Tensor:
    """Pad the last group as the reference does: with linguistic code 0 and the first semantic code."""
    missing = -codes.shape[0] % GROUP
    if missing == 0:
        return codes
    return torch.cat((codes, codes.new_tensor(_PADDING[-missing:])))


def to_columns(codes: Tensor) -> Tensor:
    """Lay interleaved codes out in time for the flow decoder.

    Args:
        codes: `(n,)` int64; an incomplete last group is padded.

    Returns:
        `(3 * ceil(n / 5), 2)` int64 at 25 Hz: linguistic codes with 1024 as filler, semantic codes from 1025.

    Raises:
        InvalidRequest: a value has no row in the decoder's table.
    """
    if codes.numel() and int(codes.max()) >= AUDIO_CODES:
        raise InvalidRequest(f"codes must be below {AUDIO_CODES}, found {int(codes.max())}", "codes")
    groups = complete(codes).reshape(-1, GROUP)
    linguistic = torch.cat((groups[:, :2], groups.new_full((groups.shape[0], 1), LINGUISTIC_CODES)), dim=1)
    semantic = groups[:, 2:] + 1
    return torch.stack((linguistic.flatten(), semantic.flatten()), dim=1).clamp_min(0)  # (3 * groups, 2)
