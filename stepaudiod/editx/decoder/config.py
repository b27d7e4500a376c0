"""The flow decoder's dimensions, and the memory that its streams take. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stepaudiod.editx.checkpoint.headers import HasShape, count, shape_of
from stepaudiod.editx.codes import GROUP, GROUP_FRAMES, MEL_FRAMES_PER_FRAME

STEPS = 10
"""Euler steps of a solve."""
LOOKAHEAD = 3
"""Frames at 25 Hz beyond the encoded one that the token encoder needs."""
LOOKAHEAD_CODES = LOOKAHEAD // GROUP_FRAMES * GROUP
"""The codes of these, which a stream's next chunk repeats."""
KERNEL = 3
"""Of the estimator's convolutions."""
GUIDANCE_ROWS = 2
"""Guidance runs everything with conditions and without."""
REMEMBERED_FRAMES = 96
"""Mel frames of its own output that the estimator attends to, beside the reference's."""
STATE_BYTES = 2
"""Bytes per value of the decoder's weights on a GPU, and of what it keeps between chunks: half precision has
as many digits as TF32."""


@dataclass(frozen=True)
class FlowConfig:
    """The dimensions of the token encoder, then of the estimator."""

    encoder_size: int
    encoder_heads: int
    encoder_inner: int
    encoder_layers: int
    up_layers: int
    size: int
    heads: int
    head_size: int
    inner: int
    depth: int

    @classmethod
    def read(cls, state: Mapping[str, HasShape], path: Path) -> FlowConfig:
        """Read every dimension from the shapes of the tensors in `flow.pt`."""
        encoder_heads, encoder_head_size = shape_of(state, "encoder.encoders.0.self_attn.pos_bias_u", path)
        encoder_inner, _ = shape_of(state, "encoder.encoders.0.feed_forward.w_1.weight", path)
        block = "decoder.estimator.blocks.0."
        all_heads, size = shape_of(state, block + "attn.to_q.weight", path)
        (head_size,) = shape_of(state, block + "attn.q_norm.weight", path)
        inner, _ = shape_of(state, block + "mlp.fc1.weight", path)
        return cls(
            encoder_heads * encoder_head_size,
            encoder_heads,
            encoder_inner,
            count(state, "encoder.encoders.{}.norm_ff.weight", path),
            count(state, "encoder.up_encoders.{}.norm_ff.weight", path),
            size,
            all_heads // head_size,
            head_size,
            inner,
            count(state, "decoder.estimator.blocks.{}.attn.to_q.weight", path),
        )


def prefilled(frames: int) -> int:
    """Count the frames at 25 Hz of a reference that don't depend on what follows it."""
    return max(0, frames - LOOKAHEAD)


@dataclass(frozen=True)
class FlowCosts:
    """Bytes of the state that the decoder keeps between chunks.

    Args:
        mel_frame_bytes: keys and values of the estimator for a frame at 50 Hz, all steps together.
        frame_bytes: keys and values of the token encoder for a frame at 25 Hz.
        columns_bytes: columns of all convolutions.
    """

    mel_frame_bytes: int
    frame_bytes: int
    columns_bytes: int

    @classmethod
    def of(cls, config: FlowConfig, state_bytes: int) -> FlowCosts:
        """Compute them; each value has `state_bytes`."""
        values = STEPS * config.depth * 2 * GUIDANCE_ROWS
        layers = config.encoder_layers + MEL_FRAMES_PER_FRAME * config.up_layers
        return cls(
            values * config.heads * config.head_size * state_bytes,
            layers * 2 * config.encoder_size * state_bytes,
            values * config.size * (KERNEL - 1) * state_bytes,
        )

    def prefix_bytes(self, frames: int) -> int:
        """Bytes of a prefilled reference of so many frames at 25 Hz."""
        ends = prefilled(frames)
        if not ends:
            return 0
        return (MEL_FRAMES_PER_FRAME * self.mel_frame_bytes + self.frame_bytes) * ends + self.columns_bytes

    def frames_in(self, size_bytes: int) -> int:
        """Count the frames at 25 Hz of the longest reference that fits into so many bytes."""
        for_ends = size_bytes - self.columns_bytes
        return LOOKAHEAD + max(
            0, for_ends // (MEL_FRAMES_PER_FRAME * self.mel_frame_bytes + self.frame_bytes)
        )

    def stream_bytes(self, frames: int) -> int:
        """Bytes of a stream of up to so many frames at 25 Hz, the reference's last three among them."""
        mel_frames = min(MEL_FRAMES_PER_FRAME * frames, REMEMBERED_FRAMES)
        return self.mel_frame_bytes * mel_frames + self.frame_bytes * frames + self.columns_bytes
