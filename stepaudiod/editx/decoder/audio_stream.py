"""Sound from codes as they come, and chunks of several streams decoded in one go.

    stream A   ── a chunk's codes are complete ─ waits ─┐
    stream B   ────── a chunk's codes are complete ─────┴─ whoever comes to its turn first decodes both

On a GPU a chunk is many small kernels, which take hardly longer for four chunks than for one. A stream's
first and last chunk wait for nobody; the others have time, as what was heard before is still playing. They
always run in graphs and batches of one size, with empty places where nobody is: so a sound is the same to the
last bit, whoever else speaks. On a processor each chunk is decoded by itself, and at once.
"""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.codes import GROUP, GROUP_FRAMES, to_columns
from stepaudiod.editx.decoder.flow import Acoustics, Flow, FlowPart
from stepaudiod.editx.decoder.reference_prefix import ReferencePrefix
from stepaudiod.editx.decoder.step_graphs import round_up, slots_beside
from stepaudiod.editx.decoder.streaming import FlowStream, SourceNoise, StreamStyle, VocoderStream
from stepaudiod.editx.decoder.token_encoder import LOOKAHEAD
from stepaudiod.editx.decoder.vocoder import Vocoder

CHUNK_FRAMES = (15, 24, 48)
"""Frames at 25 Hz of the first, the second and every later chunk: 0.6, 0.96, 1.92 s."""
LOOKAHEAD_CODES = LOOKAHEAD // GROUP_FRAMES * GROUP


@dataclass(eq=False)
class Chunk:
    """A stream's next chunk.

    Args:
        part: encoded, to be solved.
        vocoder: of the stream.
        sound: `(samples,)`, once it is decoded.
        error: why it could not be.
    """

    part: FlowPart
    vocoder: VocoderStream
    sound: Tensor | None = None
    error: Exception | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """What chunks have in common that are decoded together: new mel frames, and both networks' past."""
        past = self.part.past(0)
        return self.part.mu.shape[1], self.vocoder.seen, round_up(0 if past is None else past.frames)


class ChunkDecoder:
    """Decodes the chunks of all streams.

    Args:
        flow: codes to mel.
        vocoder: mel to sound.
    """

    def __init__(self, flow: Flow, vocoder: Vocoder) -> None:
        self.flow = flow
        self.vocoder = vocoder
        self._waiting: list[Chunk] = []
        self._lock = threading.RLock()  # a stream may be closed by whatever frees it

    def add(self, chunk: Chunk) -> None:
        """Let a chunk be decoded along with others from now on."""
        with self._lock:
            self._waiting.append(chunk)

    def drop(self, chunk: Chunk) -> None:
        """Nobody wants it any more."""
        with self._lock:
            if chunk in self._waiting:
                self._waiting.remove(chunk)
            chunk.error = None

    def decode(self, chunk: Chunk) -> Tensor:
        """Give a chunk's `(samples,)`, and decode those that wait and are like it along with it."""
        with self._lock:
            if chunk.sound is None and chunk.error is None:
                slots = slots_beside(chunk.size[-1]) if self.flow.graphs is not None else 1
                alike = [each for each in self._waiting if each is not chunk and each.size == chunk.size]
                group = [chunk, *alike[: slots - 1]]
                self._waiting = [each for each in self._waiting if each not in group]
                try:
                    self._decode(group, slots)
                except Exception as failure:  # what goes wrong for one goes wrong for all of the group
                    traceback.clear_frames(failure.__traceback__)  # they hold what was made on the way
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
        made = self.vocoder.decode(_filled_up(mels, slots), _filled_up(sources, slots))
        for each, waveform in zip(group, made[: len(group)], strict=True):
            each.sound = each.vocoder.join(waveform, is_last=False)


class AudioStream:
    """Sound from codes as they come.

    Args:
        decoder: shared by all streams.
        acoustics: of the reference.
        noise: `(80, n)` for the flow decoder.
        source_noise: for the vocoder.
        style: whose streaming.
        prompt: the reference as the flow decoder took it in; see `FlowStream`.
    """

    def __init__(
        self,
        decoder: ChunkDecoder,
        acoustics: Acoustics,
        noise: Tensor,
        source_noise: SourceNoise,
        style: StreamStyle = StreamStyle.SEAMLESS,
        prompt: ReferencePrefix | None = None,
    ) -> None:
        self._decoder = decoder
        self._flow = FlowStream(decoder.flow, acoustics, noise, style, prompt)
        self._vocoder = VocoderStream(decoder.vocoder, source_noise, style)
        self._codes: list[int] = []
        self._sizes = list(CHUNK_FRAMES)
        self._has_begun = False
        self._chunk: Chunk | None = None

    @property
    def has_time(self) -> bool:
        """Whether the chunk that is complete may wait for others, and it is worth it."""
        return self._chunk is not None and self._decoder.flow.graphs is not None

    def push(self, code: int) -> bool:
        """Take the next interleaved code; tells whether it completes a chunk, which `take` must give next."""
        assert self._chunk is None
        self._codes.append(code)
        if not self._flow.is_ready:
            if len(self._codes) >= LOOKAHEAD_CODES:
                self._flow.begin(self._columns(LOOKAHEAD_CODES))
            return False
        wanted = self._sizes[0] // GROUP_FRAMES * GROUP
        if len(self._codes) < wanted + LOOKAHEAD_CODES:
            return False
        if self._has_begun:
            self._chunk = Chunk(self._flow.encode(self._next(wanted), is_last=False), self._vocoder)
            self._decoder.add(self._chunk)
        return True

    def take(self) -> Tensor:
        """Give the sound of the chunk that is complete, `(samples,)`."""
        if self._chunk is not None:
            chunk, self._chunk = self._chunk, None
            return self._decoder.decode(chunk)
        mel = self._flow.decode(self._next(self._sizes[0] // GROUP_FRAMES * GROUP), is_last=False)
        self._has_begun = True
        return self._vocoder.decode(mel, is_last=False)

    def finish(self, code: int | None = None) -> Tensor:
        """Give the rest, `(samples,)`: what had to wait for a neighbour, and the last chunk's overlap.

        Args:
            code: the last code, if it is known only now that it is the last; it completes no chunk of its
                own.
        """
        if code is not None:
            self._codes.append(code)
        if not self._codes:
            return torch.zeros(0)
        if not self._flow.is_ready:
            self._flow.begin(self._columns(len(self._codes)))
        mel = self._flow.decode(self._columns(len(self._codes)), is_last=True)
        self._codes.clear()
        return self._vocoder.decode(mel, is_last=True)

    def close(self) -> None:
        """Leave: a chunk that waits is wanted no more."""
        if self._chunk is not None:
            self._decoder.drop(self._chunk)
            self._chunk = None

    def _next(self, codes: int) -> Tensor:
        """Take the next chunk's columns, with those that come again."""
        columns = self._columns(codes + LOOKAHEAD_CODES)
        del self._codes[:codes]
        if len(self._sizes) > 1:
            self._sizes.pop(0)
        return columns

    def _columns(self, codes: int) -> Tensor:
        return to_columns(torch.tensor(self._codes[:codes], dtype=torch.int64))


def _filled_up(x: Tensor, size: int) -> Tensor:
    return F.pad(x, (0,) * (2 * (x.dim() - 1)) + (0, size - x.shape[0]))
