"""What voices and streams keep on a GPU between chunks. Kernels read and write it by address; see `table`.

How far a stream is, the host knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder import table
from stepaudiod.editx.decoder.config import STEPS, FlowConfig
from stepaudiod.editx.decoder.packing import Numbers


@dataclass(eq=False)
class State:
    """What is kept of earlier chunks of a voice or a stream, with memory for all that may come.

    Args:
        keys: `(steps, depth, 2, 2 rows of guidance, heads, mel frames, head)` keys and values.
        columns: `(steps, depth, 2 convolutions, 2 of guidance, 2, size)`.
        cache: the token encoder's keys and values; see `attention.attend_relative`.
        cache_columns: `(2 convolutions, 2, size)`.
        frames: at 25 Hz, that fit into the cache.
        count: mel frames so far.
    """

    keys: Tensor
    columns: Tensor
    cache: Tensor
    cache_columns: Tensor
    frames: int
    count: int = 0

    @classmethod
    def new(
        cls, config: FlowConfig, mel_frames: int, frames: int, like: Tensor, after: State | None
    ) -> State:
        """Allocate the state of a voice, or of a stream after a voice."""
        shape = STEPS, config.depth, 2, 2, config.heads, mel_frames, config.head_size
        layers = config.encoder_layers + MEL_FRAMES_PER_FRAME * config.up_layers
        if after is None:
            columns = like.new_zeros(*shape[:4], 2, config.size)
            cache_columns = like.new_zeros(2, 2, config.encoder_size)
        else:
            columns, cache_columns = after.columns.clone(), after.cache_columns.clone()
        cache = like.new_empty(layers * 2 * frames * config.encoder_size)
        return cls(like.new_empty(shape), columns, cache, cache_columns, frames)

    @property
    def size(self) -> int:
        """Mel frames whose keys are kept."""
        return self.keys.shape[5]

    def fields(self, prompt: State | None) -> table.Fields:
        return {
            table.OWN: self.keys.data_ptr(),
            table.OWN_SIZE: self.size,
            table.OWN_COUNT: self.count,
            table.PROMPT: 0 if prompt is None else prompt.keys.data_ptr(),
            table.PROMPT_FRAMES: 0 if prompt is None else prompt.count,
            table.COLUMNS: self.columns.data_ptr(),
            table.CACHE: self.cache.data_ptr(),
            table.CACHE_SIZE: self.frames,
            table.CACHE_COUNT: self.count // MEL_FRAMES_PER_FRAME,
            table.CACHE_PROMPT: 0 if prompt is None else prompt.cache.data_ptr(),
            table.CACHE_COLUMNS: self.cache_columns.data_ptr(),
        }


@dataclass(frozen=True, eq=False)
class CudaPrefix:
    """A prefilled voice.

    Args:
        state: None if the voice is too short to have any.
        columns: `(k, 2)` codes of the frames at 25 Hz that depend on what follows.
        condition: `(2k, 80)` float32: their mel.
        speaker: `(80,)` float32.
    """

    state: State | None
    columns: Numbers
    condition: Tensor
    speaker: Tensor

    @property
    def frames(self) -> int:
        return 0 if self.state is None else self.state.count


@dataclass(eq=False)
class CudaStream:
    """A stream.

    Args:
        mel: `(24, 80)`, pitch: `(24,)`, turns: `(16,)` float64: what the vocoder reads again; see `table`.
        seen: the number of these frames.
        first: the position of the first of them.
        tail: the sound that was held back.
    """

    prefix: CudaPrefix
    seed: int
    state: State
    mel: Tensor
    pitch: Tensor
    turns: Tensor
    seen: int = 0
    first: int = 0
    tail: Waveform = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    @property
    def has_begun(self) -> bool:
        return self.state.count > 0
