"""One call of the language model, and the sound of its codes: what the scheduler admits and runs.

    codes     5-code groups ────[first chunk]──[second]────[third]──────── … ──[rest]
    chunks    each also reads the group after it, which the next chunk repeats

The sizes of chunks depend on nothing but the request, so that its sound doesn't depend on other requests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.codes import AUDIO_BASE, GROUP, GROUP_FRAMES
from stepaudiod.editx.decoder.config import LOOKAHEAD, LOOKAHEAD_CODES
from stepaudiod.editx.decoder.flow import Acoustics
from stepaudiod.editx.decoder.runner import DecoderStream
from stepaudiod.editx.lm.runner import Sequence
from stepaudiod.editx.tokenizers.features import SAMPLE_RATE
from stepaudiod.editx.voice_memory import Voice

STREAMED_FRAMES = (9, 12, 24, 48, 96)
"""Frames at 25 Hz of the first chunks, 0.36 s to 3.84 s; later ones are as the last. Each takes less time to
make than the chunks before it take to play, also beside 15 other streams: of the first, whose last frames are
held back, 0.2 s can be played."""
FOLLOWING_FRAMES = (48, 96)
"""The same for the next pieces of a text: the client still has sound of the piece before."""
WHOLE_FRAMES = (96,)
"""The same where the client waits for the whole sound."""
WHOLE_DEADLINE_S = 30.0
"""A sound that is wanted as a whole counts as late after so many seconds."""


class Listener:
    """When the client has played all that it has got.

    Sound that is late, and sound that comes first, is needed at once. Times are of `time.monotonic`.
    """

    def __init__(self, is_streamed: bool) -> None:
        self.deadline = time.monotonic() + (0.0 if is_streamed else WHOLE_DEADLINE_S)
        self._is_streamed = is_streamed

    def chunk_frames(self, is_first_piece: bool) -> tuple[int, ...]:
        if not self._is_streamed:
            return WHOLE_FRAMES
        return STREAMED_FRAMES if is_first_piece else FOLLOWING_FRAMES

    def hear(self, samples: int) -> None:
        if self._is_streamed:
            self.deadline = max(self.deadline, time.monotonic()) + samples / SAMPLE_RATE


@dataclass(eq=False)
class Generation:
    """One call; below the empty line is what the scheduler keeps of it.

    Args:
        sequence: of the language model.
        listener: of the request.
        on_end: called once, with an error or None; not if the generation is cancelled.
        acoustics: of the voice; None if only the codes are wanted.
        seed: of the decoder's noise.
        chunk_frames: the sizes of its chunks; later ones are as the last.
        on_sound: gets each chunk, and whether it is the first and the last.
        problem: what is wrong with its output, None if nothing is; output that ends, with a problem, before
            its first chunk is complete isn't decoded.
        voice: in the decoder.
        stream: in the decoder, from the first chunk on.
        lacks_memory: whether its voice or stream waits for memory that others hold on a GPU.
        is_written: whether the language model has nothing more to do; then it holds no pages and no row.
        has_ended: with its sound, an error, or because it was cancelled.
        peak: of its sound, None before any.
    """

    sequence: Sequence
    listener: Listener
    on_end: Callable[[BaseException | None], None]
    acoustics: Acoustics | None = None
    seed: int = 0
    chunk_frames: tuple[int, ...] = WHOLE_FRAMES
    on_sound: Callable[[Waveform, bool, bool], None] = lambda sound, is_first, is_last: None
    problem: Callable[[Generation], str | None] = lambda generation: None

    voice: Voice | None = None
    stream: DecoderStream | None = None
    lacks_memory: bool = False
    is_written: bool = False
    has_ended: bool = False
    peak: float | None = None
    _given: int = 0
    _chunks: int = 0

    @property
    def frames(self) -> int:
        """The most frames at 25 Hz that the decoder may get, the reference's last ones included."""
        return math.ceil(self.sequence.max_tokens / GROUP) * GROUP_FRAMES + LOOKAHEAD

    @property
    def has_first_chunk(self) -> bool:
        """Whether the codes of the first chunk are complete: its sound is passed on, or soon will be.

        What to do with a bad output depends on this, and not on what the decoder has had time for.
        """
        return len(self.sequence.ids) >= self.chunk_frames[0] // GROUP_FRAMES * GROUP + LOOKAHEAD_CODES

    def next_size(self) -> int | None:
        """Number of frames of the next chunk, 0 of a last one; None while its codes are missing."""
        size = self.chunk_frames[min(self._chunks, len(self.chunk_frames) - 1)]
        have = len(self.sequence.ids) - self._given
        if have >= size // GROUP_FRAMES * GROUP + LOOKAHEAD_CODES:
            return size
        return have // GROUP * GROUP_FRAMES if self.is_written else None

    def next_chunk(self) -> tuple[list[int], bool]:
        """The codes of the next chunk, with those that it only reads, and whether it is the last."""
        size = self.next_size()
        assert size is not None
        count = size // GROUP_FRAMES * GROUP
        codes = [id - AUDIO_BASE for id in self.sequence.ids[self._given :]]
        is_last = len(codes) < count + LOOKAHEAD_CODES
        return codes[: count if is_last else count + LOOKAHEAD_CODES], is_last

    def hear(self, sound: Waveform, codes: list[int], is_last: bool) -> None:
        """Pass on the sound of the next chunk."""
        self._given += len(codes) - (0 if is_last else LOOKAHEAD_CODES)
        self._chunks += 1
        is_first, peak = self.peak is None, float(np.abs(sound).max(initial=0.0))
        self.peak = max(self.peak or 0.0, peak)
        self.listener.hear(sound.size)
        self.on_sound(sound, is_first, is_last)
