"""What the flow decoder makes of a reference: once a voice, and then shared by all that is said in it.

    codes of the reference   ────────────────────────────────│ tail │ first chunk …
    taken in once            keys, values, columns, no end of it    │
    with the first chunk                                     └──────┘ its sound is cut off

The token encoder looks three frames ahead, so the reference's last three wait for what follows them: they are
decoded again with each first chunk. The noise of what is taken in is always the same. So nothing here depends
on a request, and what a stream holds of its own doesn't depend on the reference's length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.dit import KERNEL, EstimatorState, KVState
from stepaudiod.editx.decoder.flow import STEPS, Acoustics, Flow, FlowPart, align_mel, make_noise
from stepaudiod.editx.decoder.token_encoder import LOOKAHEAD, EncoderState

NOISE_SEED = 0x5EED
ROWS = 2
"""Guidance runs everything with conditions and without."""


@dataclass(frozen=True)
class ReferencePrefix:
    """A reference, taken in. Nobody writes to any of it.

    Args:
        frames: mel frames that were.
        encoder: the token encoder's state after them.
        pasts: the estimator's, for each step; empty where the reference is too short to be taken in.
        columns: `(k, 2)`: the frames at 25 Hz that wait for what follows.
        condition: `(80, 2k)`: their mel.
        speaker: `(80,)`.
    """

    frames: int
    encoder: EncoderState
    pasts: tuple[KVState, ...]
    columns: Tensor
    condition: Tensor
    speaker: Tensor

    def new_states(self, newest: int) -> tuple[EncoderState, list[EstimatorState]]:
        """Begin the states of a stream, which keeps the `newest` mel frames of its own."""
        pasts: tuple[KVState | None, ...] = self.pasts or (None,) * STEPS
        return self.encoder.after_prompt(), [EstimatorState(past, newest) for past in pasts]


def prefilled(frames: int) -> int:
    """Count the frames at 25 Hz of a reference that don't wait for what follows."""
    return max(0, frames - LOOKAHEAD)


def prefill(flow: Flow, acoustics: Acoustics) -> ReferencePrefix:
    """Run a reference through the decoder, but for its last three frames."""
    columns = acoustics.columns.to(flow.device)
    mel = align_mel(acoustics.mel, MEL_FRAMES_PER_FRAME * columns.shape[0]).T.to(flow.device, flow.dtype)
    ends = prefilled(columns.shape[0])
    frames = MEL_FRAMES_PER_FRAME * ends
    speaker = flow.speaker(acoustics.embedding)
    encoder, states = flow.new_states()
    if frames:
        noise = make_noise(NOISE_SEED, frames).to(flow.device)
        flow.solve([encode_part(flow, columns, False, encoder, states, mel[:, :frames], speaker, noise)])
    pasts = tuple(state.past.as_prompt() for state in states if state.past is not None)
    # copies: what is a view would keep all of it
    return ReferencePrefix(frames, encoder, pasts, columns[ends:].clone(), mel[:, frames:].clone(), speaker)


def encode_part(
    flow: Flow,
    columns: Tensor,
    is_last: bool,
    encoder: EncoderState,
    states: list[EstimatorState],
    condition: Tensor,
    speaker: Tensor,
    noise: Tensor,
) -> FlowPart:
    """Encode the next columns, for a solve.

    Args:
        flow: the decoder.
        columns: `(n + 3, 2)`, the last three of which come again; `(n, 2)` if last.
        is_last: nothing follows.
        encoder: grows.
        states: grow when the part is solved.
        condition: `(80, k)`: mel of the first k frames, as far as it is known.
        speaker: `(80,)`.
        noise: `(80, 2n)`.
    """
    encoded = flow.encoder.encode_chunk(flow.embed(columns.to(flow.device)), encoder, is_last)
    mu = flow.encoder_proj(encoded)[0].T.contiguous()  # (80, 2n)
    known = F.pad(condition.to(mu), (0, mu.shape[1] - condition.shape[1]))
    return FlowPart(noise.to(mu), mu, known, speaker, states)


@dataclass(frozen=True)
class FlowCosts:
    """How many bytes what is kept of earlier chunks takes.

    Args:
        mel_frame_bytes: keys and values of the estimator for a frame at 50 Hz, all steps together.
        frame_bytes: keys and values of the token encoder for a frame at 25 Hz.
        columns_bytes: columns of all convolutions.
    """

    mel_frame_bytes: int
    frame_bytes: int
    columns_bytes: int

    @classmethod
    def of(cls, flow: Flow, kept: torch.dtype) -> FlowCosts:
        """Read them off a decoder, which may be on the meta device.

        Args:
            flow: the decoder.
            kept: what the estimator's keys and values are kept in.
        """
        estimator, encoder, width = flow.estimator, flow.encoder, flow.dtype.itemsize
        block, depth = estimator.first_block, len(estimator.blocks)
        attended = block.attn.heads * block.attn.head_size
        layers = len(encoder.encoders) + MEL_FRAMES_PER_FRAME * len(encoder.up_encoders)
        return cls(
            STEPS * depth * 2 * ROWS * attended * kept.itemsize,
            layers * 2 * encoder.size * width,
            STEPS * depth * 2 * ROWS * block.size * (KERNEL - 1) * width,
        )

    def prompt_bytes(self, frames: int) -> int:
        """Bytes of a reference of so many frames at 25 Hz, taken in."""
        ends = prefilled(frames)
        if not ends:
            return 0
        return (MEL_FRAMES_PER_FRAME * self.mel_frame_bytes + self.frame_bytes) * ends + self.columns_bytes

    def frames_in(self, size_bytes: int) -> int:
        """Count the frames at 25 Hz of the longest reference that so many bytes hold."""
        for_ends = size_bytes - self.columns_bytes
        return LOOKAHEAD + max(
            0, for_ends // (MEL_FRAMES_PER_FRAME * self.mel_frame_bytes + self.frame_bytes)
        )

    def stream_bytes(self, frames: int, remembered: int) -> int:
        """Bytes of a stream's own.

        Args:
            frames: at 25 Hz that it may have, with the reference's last three.
            remembered: mel frames that the estimator keeps.
        """
        mel_frames = min(MEL_FRAMES_PER_FRAME * frames, remembered)
        return self.mel_frame_bytes * mel_frames + self.frame_bytes * frames + self.columns_bytes
