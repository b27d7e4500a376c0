"""The tables by which kernels find the sequences of a call: a row of int64 for each chunk.

Keys and values of voices and streams are never copied: the table has their addresses. The first fields are
for the flow decoder, those of `SOUND` for the vocoder, whose sequences begin with frames that it has seen
before. Addresses are of values in the products' format, but where float32 is written. Imported on CUDA only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import triton.language as tl
from torch import Tensor

SLOTS = 16
"""Chunks of a call."""
Fields = Mapping[tl.constexpr, int]

FIRST = tl.constexpr(0)
"""Row of the first mel frame; the two rows before it are for columns of the past."""
FRAMES = tl.constexpr(1)
"""Mel frames."""
SEED = tl.constexpr(2)
POSITION = tl.constexpr(3)
"""Of the first mel frame in the noise: the voice's frames and the stream's earlier ones."""
OWN = tl.constexpr(4)
"""Address of the ring of the stream's newest keys and values."""
OWN_SIZE = tl.constexpr(5)
"""Mel frames that fit into it."""
OWN_COUNT = tl.constexpr(6)
"""Mel frames that were written to it so far, those that are overwritten included."""
PROMPT = tl.constexpr(7)
"""Address of the voice's keys and values."""
PROMPT_FRAMES = tl.constexpr(8)
"""Mel frames of the voice."""
COLUMNS = tl.constexpr(9)
"""Address of columns of the estimator's convolutions."""
CACHE = tl.constexpr(10)
"""Address of the stream's keys and values of the token encoder."""
CACHE_SIZE = tl.constexpr(11)
"""Frames at 25 Hz that fit into it."""
CACHE_COUNT = tl.constexpr(12)
"""Frames at 25 Hz in it."""
CACHE_PROMPT = tl.constexpr(13)
"""Address of the voice's, of half as many frames as `PROMPT_FRAMES`."""
CACHE_COLUMNS = tl.constexpr(14)
"""Address of columns of the token encoder's convolutions."""
CODED = tl.constexpr(15)
"""Row of the first frame at 25 Hz; the two before it and the three after the last are its own too."""
CONDITION = tl.constexpr(16)
"""Address of the mel that is known, float32."""
CONDITION_FRAMES = tl.constexpr(17)
SPEAKER = tl.constexpr(18)
"""Address of the projected speaker embedding, float32."""
WIDTH = tl.constexpr(20)  # even: rows begin at multiples of 16 bytes

SOUND_ROW = tl.constexpr(0)
"""Row of the first frame."""
SOUND_FRAMES = tl.constexpr(1)
SOUND_SEEN = tl.constexpr(2)
"""How many of them come from the stream."""
SOUND_KNOWN = tl.constexpr(3)
"""How many of them have a pitch already."""
SOUND_DROPPED = tl.constexpr(4)
"""How many the stream won't need again."""
SOUND_MADE = tl.constexpr(5)
"""Row of the first new frame among the flow decoder's."""
SOUND_SEED = tl.constexpr(6)
SOUND_POSITION = tl.constexpr(7)
"""Of the first frame in the utterance."""
SOUND_MEL = tl.constexpr(8)
"""Address of the stream's mel frames, float32."""
SOUND_PITCH = tl.constexpr(9)
"""Address of their pitches, float32."""
SOUND_TURNS = tl.constexpr(10)
"""Address of the phases before them, float64."""
SOUND_HAS_TURNS = tl.constexpr(11)
SOUND_WIDTH = tl.constexpr(12)


@dataclass(frozen=True)
class FlowTables:
    """Where the chunks are.

    Args:
        parts: `(slots, WIDTH)` int64.
        rows: `(rows, 2)` int64: slot, or -1, and mel frame, below 0 for the past.
        coded: `(coded rows, 2)` int64, likewise at 25 Hz.
        codes: `(coded rows, 2)` int64: a frame's codes, -1 for zeros.
        doubled: `(rows,)` int64: twice the row at 25 Hz of the oldest frame that the convolution reads, plus
            the place in it.
        tiles, coded_tiles: `(n, 2)` int64: slot, or -1, and first frame of a tile of queries.
    """

    parts: Tensor
    rows: Tensor
    coded: Tensor
    codes: Tensor
    doubled: Tensor
    tiles: Tensor
    coded_tiles: Tensor


@dataclass(frozen=True)
class SoundTables:
    """Where the sequences are; see `sound_kernels`.

    Args:
        sounds: `(slots, SOUND_WIDTH)` int64.
        places: `(frames + 1, 2)` int64.
        times: `(frames + 1,)` int64.
    """

    sounds: Tensor
    places: Tensor
    times: Tensor
