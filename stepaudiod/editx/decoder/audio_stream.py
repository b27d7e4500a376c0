"""Sound from codes as they arrive, with the chunks of several streams decoded together.

    stream A   ── a chunk's codes are complete ─ waits ─┐
    stream B   ────── a chunk's codes are complete ─────┴─ the stream that runs first decodes both

On a GPU a chunk is many small kernels, which take hardly longer for four chunks than for one. A stream's
first and last chunk are decoded at once; the others can wait, since earlier sound is still playing. They
always run in graphs and batches of one size, with unused slots: so the last bits of a sound don't depend on
other streams. On a CPU each chunk is decoded by itself, and at once.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.codes import GROUP, GROUP_FRAMES
from stepaudiod.editx.decoder.config import LOOKAHEAD_CODES
from stepaudiod.editx.decoder.flow import Flow, FlowPart
from stepaudiod.editx.decoder.reference_prefix import EagerPrefix as ReferencePrefix
from stepaudiod.editx.decoder.step_graphs import round_up, slots_beside
from stepaudiod.editx.decoder.streaming import FlowStream, VocoderStream
from stepaudiod.editx.decoder.vocoder import Vocoder
from stepaudiod.editx.interleaving import to_columns

CHUNK_FRAMES = (15, 24, 48)
"""Frames at 25 Hz of the first, the second and each later chunk: 0.6, 0.96, 1.92 s."""


@dataclass(eq=False)
class Chunk:
    """A stream's next chunk, and its sound `(samples,)` once it is decoded, or why decoding failed."""

    part: FlowPart
    vocoder: VocoderStream
    sound: Tensor | None = None
    error: Exception | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """Equal for chunks that can be decoded together: new mel frames, and the past of both networks."""
        past = self.part.states[0].past
        return self.part.mu.shape[1], self.vocoder.seen, round_up(0 if past is None else past.frames)


class ChunkDecoder:
    def __init__(self, flow: Flow, vocoder: Vocoder) -> None:
        self.flow = flow
        self.vocoder = vocoder
        self._waiting: list[Chunk] = []
        self._lock = threading.RLock()  # reentrant: the garbage collector may close a stream in any thread

    def add(self, chunk: Chunk) -> None:
        with self._lock:
            self._waiting.append(chunk)

    def drop(self, chunk: Chunk) -> None:
        with self._lock:
            if chunk in self._waiting:
                self._waiting.remove(chunk)
            chunk.error = None

    def decode(self, chunk: Chunk) -> Tensor:
        """Return a chunk's `(samples,)`, decoding waiting chunks of the same size with it."""
        with self._lock:
            if chunk.sound is None and chunk.error is None:
                slots = slots_beside(chunk.size[-1]) if self.flow.graphs is not None else 1
                alike = [each for each in self._waiting if each is not chunk and each.size == chunk.size]
                group = [chunk, *alike[: slots - 1]]
                self._waiting = [each for each in self._waiting if each not in group]
                try:
                    self._decode(group, slots)
                except Exception as failure:  # fails all of the group
                    traceback.clear_frames(failure.__traceback__)  # they hold intermediate tensors
                    for each in group:
                        each.error = failure
            error, chunk.error = chunk.error, None
            if error is not None:
                raise error
            assert chunk.sound is not None
            return chunk.sound

    def _decode(self, group: list[Chunk], slots: int) -> None:
        solved = self.flow.solve([each.part for each in group], slots)
        excited = [each.vocoder.excite(mel) for each, mel in zip(group, solved, strict=True)]
        mels, sources = (torch.stack(each) for each in zip(*excited, strict=True))
        made = self.vocoder.decode(_padded(mels, slots), _padded(sources, slots))
        for each, waveform in zip(group, made[: len(group)], strict=True):
            each.sound = each.vocoder.join(waveform, is_last=False)


class AudioStream:
    """Sound from codes as they arrive; the noise is `(80, n)` for the flow decoder."""

    def __init__(
        self,
        decoder: ChunkDecoder,
        prefix: ReferencePrefix,
        noise: Tensor,
        source_noise: Callable[[int], Tensor],
    ) -> None:
        self._decoder = decoder
        self._flow = FlowStream(decoder.flow, prefix, lambda first, n: noise[:, first : first + n])
        self._vocoder = VocoderStream(decoder.vocoder, lambda first, n: source_noise(n))
        self._codes: list[int] = []
        self._sizes = list(CHUNK_FRAMES)
        self._has_begun = False
        self._chunk: Chunk | None = None

    @property
    def has_time(self) -> bool:
        """Whether the complete chunk may wait for those of other streams, and would gain from it."""
        return self._chunk is not None and self._decoder.flow.graphs is not None

    def push(self, code: int) -> bool:
        """Add the next interleaved code; returns whether it completes a chunk, which `take` must decode."""
        assert self._chunk is None
        self._codes.append(code)
        wanted = self._sizes[0] // GROUP_FRAMES * GROUP
        if len(self._codes) < wanted + LOOKAHEAD_CODES:
            return False
        if self._has_begun:
            self._chunk = Chunk(self._flow.encode(self._next(wanted), is_last=False), self._vocoder)
            self._decoder.add(self._chunk)
        return True

    def take(self) -> Tensor:
        """Decode the complete chunk: `(samples,)`."""
        if self._chunk is not None:
            chunk, self._chunk = self._chunk, None
            return self._decoder.decode(chunk)
        mel = self._flow.decode(self._next(self._sizes[0] // GROUP_FRAMES * GROUP), is_last=False)
        self._has_begun = True
        return self._vocoder.decode(mel, is_last=False)

    def finish(self) -> Tensor:
        """Decode the rest, `(samples,)`: the last codes, and the last chunk's overlap."""
        if not self._codes:
            return torch.zeros(0)
        mel = self._flow.decode(self._columns(len(self._codes)), is_last=True)
        self._codes.clear()
        return self._vocoder.decode(mel, is_last=True)

    def close(self) -> None:
        if self._chunk is not None:
            self._decoder.drop(self._chunk)
            self._chunk = None

    def _next(self, codes: int) -> Tensor:
        """Remove the next chunk's codes; returns its columns, and those that the next chunk repeats."""
        columns = self._columns(codes + LOOKAHEAD_CODES)
        del self._codes[:codes]
        if len(self._sizes) > 1:
            self._sizes.pop(0)
        return columns

    def _columns(self, codes: int) -> Tensor:
        return to_columns(torch.tensor(self._codes[:codes], dtype=torch.int64))


def _padded(x: Tensor, size: int) -> Tensor:
    return F.pad(x, (0,) * (2 * (x.dim() - 1)) + (0, size - x.shape[0]))
