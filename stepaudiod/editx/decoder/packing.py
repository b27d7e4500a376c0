"""The tables of a call, made on the host and sent at once: which rows belong to which chunk.

A table is of a fixed size for each graph; what isn't used is marked so, and skipped by all kernels. See
`cuda_estimator` and `sound_kernels` for the layouts. Imported on CUDA only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepaudiod.editx.decoder.attention import TILE
from stepaudiod.editx.decoder.config import LOOKAHEAD
from stepaudiod.editx.decoder.table import (
    CODED,
    FIRST,
    FRAMES,
    SLOTS,
    SOUND_FRAMES,
    SOUND_ROW,
    SOUND_WIDTH,
    WIDTH,
    Fields,
    FlowTables,
    SoundTables,
)

Numbers = NDArray[np.int64]

PAST = 2
"""Rows before a chunk."""
GAP = 4
"""Frames at 50 Hz between sequences of the vocoder: more than any of its convolutions reaches."""
LEAST = 8
"""Rows of the shortest chunk."""
NOWHERE = -(10**6)


@dataclass(frozen=True)
class FlowPart:
    """A chunk for the flow decoder.

    Args:
        fields: of the table, but for its rows.
        codes: `(frames + 3, 2)`, the frames that are looked at ahead included; -1 for zeros.
    """

    fields: Fields
    codes: Numbers

    @property
    def frames(self) -> int:
        """At 25 Hz."""
        return len(self.codes) - LOOKAHEAD

    @property
    def rows(self) -> int:
        return rows_of(self.frames)


def rows_of(frames: int) -> int:
    """The rows of a chunk of so many frames at 25 Hz."""
    return PAST + 2 * frames


class FlowTable:
    """The table for up to `rows` rows: its device memory, which calls of all sizes share."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._device = torch.zeros(sum(_flow_sizes(rows)), dtype=torch.int64, device=device)

    def views(self, rows: int) -> FlowTables:
        parts, places, coded, codes, doubled, tiles, coded_tiles = _split(self._device, _flow_sizes(rows))
        return FlowTables(
            parts.view(SLOTS, -1),
            places.view(-1, 2),
            coded.view(-1, 2),
            codes.view(-1, 2),
            doubled,
            tiles.view(-1, 2),
            coded_tiles.view(-1, 2),
        )

    def send(self, rows: int, parts: Sequence[FlowPart]) -> list[int]:
        """Send the table of a call; returns each part's first row."""
        sizes = _flow_sizes(rows)
        numbers = np.full(sum(sizes), -1, dtype=np.int64)
        table, places, coded, codes, doubled, tiles, coded_tiles = _split_numbers(numbers, sizes)
        table[:], doubled[:] = 0, NOWHERE
        fields, places, coded, codes = (
            table.reshape(SLOTS, -1),
            *(x.reshape(-1, 2) for x in (places, coded, codes)),
        )
        row, coded_row, firsts, cuts, coded_cuts = 0, 0, [], [], []
        for slot, part in enumerate(parts):
            frames, first, coded_first = 2 * part.frames, row + PAST, coded_row + PAST
            place = {FIRST: first, FRAMES: frames, CODED: coded_first}
            for field, value in (place | dict(part.fields)).items():
                fields[slot, field.value] = value
            row, coded_row = first + frames, coded_first + len(part.codes)
            places[first - PAST : row] = _places(slot, frames)
            coded[coded_first - PAST : coded_row] = _places(slot, len(part.codes))
            codes[coded_first:coded_row] = part.codes
            doubled[first:row] = 2 * coded_first - 4 + np.arange(frames)
            cuts += [(slot, begin) for begin in range(0, frames, TILE)]
            coded_cuts += [(slot, begin) for begin in range(0, part.frames, TILE)]
            firsts.append(first)
        for target, made in ((tiles, cuts), (coded_tiles, coded_cuts)):
            target[: 2 * len(made)] = np.array(made, dtype=np.int64).reshape(-1)
        _send(numbers, self._device)
        return firsts


@dataclass(frozen=True)
class SoundPart:
    """A sequence for the vocoder: fields of the table, but for its rows."""

    fields: Fields
    frames: int


class SoundTable:
    """The same for the vocoder, and up to so many frames, gaps included."""

    def __init__(self, frames: int, device: torch.device) -> None:
        self._device = torch.zeros(sum(_sound_sizes(frames)), dtype=torch.int64, device=device)

    def views(self, frames: int) -> SoundTables:
        sounds, places, times = _split(self._device, _sound_sizes(frames))
        return SoundTables(sounds.view(SLOTS, -1), places.view(-1, 2), times[: frames + 1])

    def send(self, frames: int, parts: Sequence[SoundPart]) -> list[int]:
        """Send the table of a call; returns each part's first row."""
        sizes = _sound_sizes(frames)
        numbers = np.full(sum(sizes), -1, dtype=np.int64)
        sounds, places, times = _split_numbers(numbers, sizes)
        sounds[:] = 0
        fields, places, row, firsts = sounds.reshape(SLOTS, -1), places.reshape(-1, 2), 0, []
        for slot, part in enumerate(parts):
            place = {SOUND_ROW: row, SOUND_FRAMES: part.frames}
            for field, value in (place | dict(part.fields)).items():
                fields[slot, field.value] = value
            places[row : row + part.frames] = _places(slot, part.frames)[PAST:]
            times[row : row + part.frames] = np.arange(part.frames)
            firsts.append(row)
            row += part.frames + GAP
        _send(numbers, self._device)
        return firsts


def _flow_sizes(rows: int) -> list[int]:
    """Numbers in each part of a flow table: see `FlowTables`."""
    # a part has at least LEAST rows, and at 25 Hz half of its frames and five more rows
    parts = min(SLOTS, rows // LEAST)
    coded = rows // 2 + 4 * parts
    tiles, coded_tiles = (count // TILE + parts for count in (rows, coded))
    return [SLOTS * WIDTH.value, 2 * rows, 2 * coded, 2 * coded, rows, 2 * tiles, 2 * coded_tiles]


def _sound_sizes(frames: int) -> list[int]:
    return [SLOTS * SOUND_WIDTH.value, 2 * (frames + 1), frames + 2]


def _places(slot: int, frames: int) -> Numbers:
    """(2 + frames, 2): slot and frame, those of the past below 0."""
    times = np.arange(-PAST, frames, dtype=np.int64)
    return np.stack((np.full_like(times, slot), times), axis=1)


def _split(table: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(torch.split(table[: sum(sizes)], sizes))


def _split_numbers(numbers: Numbers, sizes: list[int]) -> list[Numbers]:
    ends = np.cumsum(sizes)
    return [numbers[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _send(numbers: Numbers, to: Tensor) -> None:
    given = torch.from_numpy(numbers)
    if to.is_cuda:
        given = given.pin_memory()  # so that sending doesn't wait
    to[: len(numbers)].copy_(given, non_blocking=True)
