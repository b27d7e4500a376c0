"""What decodes chunks of codes to sound, for one or several streams at once.

    voice   ── prefill ── prefix, shared ─┐
    request ── open ───── stream ─────────┴─ decode a chunk … decode the last chunk ── 24 kHz

A runner is called from one thread at a time, and blocks until the sound is on the host. It knows nothing of
requests, deadlines, or the memory of all streams together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.decoder.config import FlowCosts
from stepaudiod.editx.decoder.dit import MELS
from stepaudiod.editx.decoder.flow import Acoustics
from stepaudiod.editx.decoder.source import HARMONICS
from stepaudiod.editx.philox import normal

ReferencePrefix = Any
"""A runner's state after a voice, immutable. Only the runner that made it knows what it is."""
DecoderStream = Any
"""A runner's state of one stream between chunks; the same."""
MEL_NOISE, SOURCE_NOISE = 0x51ED2701, 0x2F8A6C3B
"""Streams of a seed's random numbers; see `philox`."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """A stream's next codes.

    Args:
        stream: which only one chunk of a call may have.
        codes: interleaved, whole groups; if not last, more than `LOOKAHEAD_CODES`, of which the next chunk
            repeats so many.
        is_last: nothing follows. Without codes, only the sound that was held back is left.
    """

    stream: DecoderStream
    codes: list[int]
    is_last: bool


class DecoderRunner(Protocol):
    @property
    def slots(self) -> int:
        """The most chunks in one call."""

    @property
    def costs(self) -> FlowCosts:
        """The memory of prefixes and streams."""

    def prefill(self, acoustics: Acoustics) -> ReferencePrefix:
        """Read a voice, for any number of streams."""

    def open(self, prefix: ReferencePrefix, seed: int, frames: int) -> DecoderStream:
        """Allocate a stream of up to so many frames at 25 Hz, the reference's last three among them."""

    def decode(self, chunks: Sequence[Chunk]) -> list[Waveform]:
        """Decode chunks of different streams: the new samples of each, at 24 kHz.

        The first is always decoded, of those after it as many as a short call holds; the result tells how
        many. It allocates no memory, and what the language model can write is no error: when it raises, the
        device has failed for all of them. Only what was found wrong before leaves the streams as they were.
        """

    def capture_next(self) -> bool:
        """Prepare one more size of call; False when there is nothing to prepare."""

    def launches(self) -> Iterable[Callable[[], None]]:
        """What its graphs record, one after the other; while it is idle they change nothing."""


def mel_noise(seed: int, first: int, frames: int, device: torch.device) -> Tensor:
    """The noise that a solve starts from, at mel frames `first` and on: `(80, frames)`."""
    return normal(seed, MEL_NOISE, MELS * first, MELS * frames, device).view(frames, MELS).T


def source_noise(seed: int, first: int, samples: int, device: torch.device) -> Tensor:
    """The noise of a source at samples `first` and on: `(samples, 9)`."""
    return normal(seed, SOURCE_NOISE, HARMONICS * first, HARMONICS * samples, device).view(samples, HARMONICS)
