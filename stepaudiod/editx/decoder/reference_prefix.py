"""The flow decoder's state after a reference: computed once per voice and shared by all of its streams.

    codes of the reference   ──────── prefilled ─────────────│ tail │ first chunk …
    state                    keys, values, columns           │      │
    with the first chunk                                     └──────┘ its sound is cut off

The token encoder looks three frames ahead, so the reference's last three depend on what follows: they are
decoded with the first chunk of each stream. The noise of the prefill is always the same. So nothing here
depends on a request, and the size of a stream's own state doesn't depend on the reference's length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.config import STEPS, prefilled
from stepaudiod.editx.decoder.dit import EstimatorState, KVState
from stepaudiod.editx.decoder.flow import Acoustics, Flow, FlowPart, align_mel
from stepaudiod.editx.decoder.runner import mel_noise
from stepaudiod.editx.decoder.token_encoder import EncoderState

NOISE_SEED = 0x5EED
"""Of every prefill."""


@dataclass(frozen=True)
class EagerPrefix:
    """A prefilled reference, immutable.

    Args:
        frames: number of mel frames that were prefilled.
        encoder: the token encoder's state after them.
        pasts: the estimator's, for each step; empty where the reference is too short.
        columns: `(k, 2)`: the frames at 25 Hz that depend on what follows.
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
        """The first states of a stream, which keeps the `newest` mel frames of its own."""
        pasts: tuple[KVState | None, ...] = self.pasts or (None,) * STEPS
        return self.encoder.after_prompt(), [EstimatorState(past, newest) for past in pasts]


def prefill(flow: Flow, acoustics: Acoustics) -> EagerPrefix:
    """Run a reference through the decoder, without its last three frames."""
    columns = acoustics.columns.to(flow.device)
    mel = align_mel(acoustics.mel, MEL_FRAMES_PER_FRAME * columns.shape[0]).T.to(flow.device, flow.dtype)
    ends = prefilled(columns.shape[0])
    frames = MEL_FRAMES_PER_FRAME * ends
    speaker = flow.speaker(acoustics.embedding)
    encoder, states = EncoderState(), [EstimatorState() for _ in range(STEPS)]
    if frames:
        noise = mel_noise(NOISE_SEED, 0, frames, flow.device)
        flow.solve(encode_part(flow, columns, False, encoder, states, mel[:, :frames], speaker, noise))
    pasts = tuple(state.past.as_prompt() for state in states if state.past is not None)
    # copies: a view would keep the whole tensor in memory
    return EagerPrefix(frames, encoder, pasts, columns[ends:].clone(), mel[:, frames:].clone(), speaker)


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
    """Encode the next columns, for a solve; the states grow.

    Args:
        flow: the decoder.
        columns: `(n + 3, 2)`, the last three of which are repeated by the next call; `(n, 2)` if last.
        is_last: nothing follows.
        encoder: grows.
        states: grow when the part is solved.
        condition: `(80, k)`: mel of the first k frames, if known.
        speaker: `(80,)`.
        noise: `(80, 2n)`.
    """
    encoded = flow.encoder.encode_chunk(flow.embed(columns.to(flow.device)), encoder, is_last)
    mu = flow.encoder_proj(encoded)[0].T.contiguous()  # (80, 2n)
    known = F.pad(condition.to(mu), (0, mu.shape[1] - condition.shape[1]))
    return FlowPart(noise.to(mu), mu, known, speaker, states)
