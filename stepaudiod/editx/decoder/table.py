"""The tables by which kernels find the sequences of a call: a row of int64 for each chunk.

Keys and values of voices and streams are never copied: the table has their addresses. `Part` is for the flow
decoder, `Sound` for the vocoder, whose sequences begin with frames that it has seen before. Kernels read the
constants below. Imported on CUDA only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto

import triton.language as tl
from torch import Tensor

SLOTS = 16
"""Chunks of a call."""


class _Field(IntEnum):
    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[int]) -> int:
        return count


class Part(_Field):
    """Addresses are of values in the products' format, but where float32 is written."""

    FIRST = auto()
    """Row of the first mel frame; the two rows before it are for columns of the past."""
    FRAMES = auto()
    """Mel frames."""
    SEED = auto()
    POSITION = auto()
    """Of the first mel frame in the noise: the voice's frames and the stream's earlier ones."""
    OWN = auto()
    """Address of the ring of the stream's newest keys and values."""
    OWN_SIZE = auto()
    """Mel frames that fit into it."""
    OWN_COUNT = auto()
    """Mel frames that were written to it so far, those that are overwritten included."""
    PROMPT = auto()
    """Address of the voice's keys and values."""
    PROMPT_FRAMES = auto()
    """Mel frames of the voice."""
    COLUMNS = auto()
    """Address of columns of the estimator's convolutions."""
    CACHE = auto()
    """Address of the stream's keys and values of the token encoder."""
    CACHE_SIZE = auto()
    """Frames at 25 Hz that fit into it."""
    CACHE_COUNT = auto()
    """Frames at 25 Hz in it."""
    CACHE_PROMPT = auto()
    """Address of the voice's, of half as many frames as `PROMPT_FRAMES`."""
    CACHE_COLUMNS = auto()
    """Address of columns of the token encoder's convolutions."""
    CODED = auto()
    """Row of the first frame at 25 Hz; the two before it and the three after the last are its own too."""
    CONDITION = auto()
    """Address of the mel that is known, float32."""
    CONDITION_FRAMES = auto()
    SPEAKER = auto()
    """Address of the projected speaker embedding, float32."""
    UNUSED = auto()  # an even number: rows begin at multiples of 16 bytes


class Sound(_Field):
    ROW = auto()
    """Row of the first frame."""
    FRAMES = auto()
    SEEN = auto()
    """How many of them come from the stream."""
    KNOWN = auto()
    """How many of them have a pitch already."""
    DROPPED = auto()
    """How many the stream won't need again."""
    MADE = auto()
    """Row of the first new frame among the flow decoder's."""
    SEED = auto()
    POSITION = auto()
    """Of the first frame in the utterance."""
    MEL = auto()
    """Address of the stream's mel frames, float32."""
    PITCH = auto()
    """Address of their pitches, float32."""
    TURNS = auto()
    """Address of the phases before them, float64."""
    HAS_TURNS = auto()


WIDTH = tl.constexpr(len(Part))
FIRST = tl.constexpr(int(Part.FIRST))
FRAMES = tl.constexpr(int(Part.FRAMES))
SEED = tl.constexpr(int(Part.SEED))
POSITION = tl.constexpr(int(Part.POSITION))
OWN = tl.constexpr(int(Part.OWN))
OWN_SIZE = tl.constexpr(int(Part.OWN_SIZE))
OWN_COUNT = tl.constexpr(int(Part.OWN_COUNT))
PROMPT = tl.constexpr(int(Part.PROMPT))
PROMPT_FRAMES = tl.constexpr(int(Part.PROMPT_FRAMES))
COLUMNS = tl.constexpr(int(Part.COLUMNS))
CACHE = tl.constexpr(int(Part.CACHE))
CACHE_SIZE = tl.constexpr(int(Part.CACHE_SIZE))
CACHE_COUNT = tl.constexpr(int(Part.CACHE_COUNT))
CACHE_PROMPT = tl.constexpr(int(Part.CACHE_PROMPT))
CACHE_COLUMNS = tl.constexpr(int(Part.CACHE_COLUMNS))
CODED = tl.constexpr(int(Part.CODED))
CONDITION = tl.constexpr(int(Part.CONDITION))
CONDITION_FRAMES = tl.constexpr(int(Part.CONDITION_FRAMES))
SPEAKER = tl.constexpr(int(Part.SPEAKER))

SOUND_WIDTH = tl.constexpr(len(Sound))
SOUND_ROW = tl.constexpr(int(Sound.ROW))
SOUND_FRAMES = tl.constexpr(int(Sound.FRAMES))
SOUND_SEEN = tl.constexpr(int(Sound.SEEN))
SOUND_KNOWN = tl.constexpr(int(Sound.KNOWN))
SOUND_DROPPED = tl.constexpr(int(Sound.DROPPED))
SOUND_MADE = tl.constexpr(int(Sound.MADE))
SOUND_SEED = tl.constexpr(int(Sound.SEED))
SOUND_POSITION = tl.constexpr(int(Sound.POSITION))
SOUND_MEL = tl.constexpr(int(Sound.MEL))
SOUND_PITCH = tl.constexpr(int(Sound.PITCH))
SOUND_TURNS = tl.constexpr(int(Sound.TURNS))
SOUND_HAS_TURNS = tl.constexpr(int(Sound.HAS_TURNS))


@dataclass(frozen=True)
class FlowTables:
    """Where the chunks are.

    Args:
        parts: `(slots, len(Part))` int64.
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
    """Where the sequences are; see `table.Sound` and `sound_kernels`.

    Args:
        sounds: `(slots, len(Sound))` int64.
        places: `(frames + 1, 2)` int64.
        times: `(frames + 1,)` int64.
    """

    sounds: Tensor
    places: Tensor
    times: Tensor
