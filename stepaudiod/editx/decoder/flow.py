"""Codes to mel: flow matching from noise, guided by codes, a speaker and the reference's own mel.

    codes ── columns ── embedding ── token encoder ── mu ───────┐
    speaker embedding ── unit length ── linear ── speaker ──────┼── ten steps from noise ── mel at 50 Hz
    reference mel, then zeros ───────────────────── condition ──┘

The reference's frames come first in everything and are cut off at the end. Guidance runs a second row with
all conditions zero. Knows no waveform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.weights import Progress, count, embedding, install, read_torch_file, shape_of
from stepaudiod.editx.codes import MEL_FRAMES_PER_FRAME
from stepaudiod.editx.decoder.dit import MELS, DiT, EstimatorState, KVState, Modulation
from stepaudiod.editx.decoder.step_graphs import KEPT, StepGraphs, StepInput
from stepaudiod.editx.decoder.token_encoder import EncoderState, TokenEncoder
from stepaudiod.errors import InvalidRequest

STEPS = 10
GUIDANCE = 0.7
TABLE_ROWS = 5121
SPEAKER_SIZE = 192
NOISE_FRAMES = 30000
LARGEST_PROMPT_GRAPH = 512
"""Mel frames up to which a reference is taken in by a graph: that is done once a voice, and a graph stays."""


@dataclass(frozen=True)
class Acoustics:
    """What a reference lends to the decoder.

    Args:
        columns: `(frames, 2)` int64, its codes in time; see `codes.to_columns`.
        mel: `(frames of its own, 80)`; stretched to the codes' length where it differs.
        embedding: `(192,)` from CAM++.
    """

    columns: Tensor
    mel: Tensor
    embedding: Tensor


@dataclass(frozen=True, eq=False)
class FlowPart:
    """What a solve starts from: an utterance, or a chunk of one.

    Args:
        noise: `(80, frames)`.
        mu: `(80, frames)` from the token encoder.
        condition: `(80, frames)` reference mel or zeros.
        speaker: `(80,)`.
        states: one for each step, of earlier chunks; they grow. None where no chunk follows.
    """

    noise: Tensor
    mu: Tensor
    condition: Tensor
    speaker: Tensor
    states: list[EstimatorState] | None = None

    def given(self) -> Tensor:
        """What every step is told, with and without conditions: `(2, 240, frames)`."""
        told = torch.cat((self.mu, self.speaker[:, None].expand_as(self.mu), self.condition))
        return torch.stack((told, torch.zeros_like(told)))

    def past(self, step: int) -> KVState | None:
        """What earlier chunks left behind for a step."""
        return None if self.states is None else self.states[step].past


@dataclass
class FlowTrace:
    """What each step made, for comparison with a reference; filled in if given."""

    encoded: Tensor | None = None
    mu: Tensor | None = None
    condition: Tensor | None = None
    speaker: Tensor | None = None
    times: list[float] = field(default_factory=list)
    first_velocity: Tensor | None = None
    states: list[Tensor] = field(default_factory=list)
    mel: Tensor | None = None


def round_to_bfloat16(acoustics: Acoustics) -> Acoustics:
    """Round mel and embedding as the reference does; for comparison, as leaving it out is more exact."""
    mel, embedding = (x.to(torch.bfloat16).to(x.dtype) for x in (acoustics.mel, acoustics.embedding))
    return Acoustics(acoustics.columns, mel, embedding)


def align_mel(mel: Tensor, frames: int) -> Tensor:
    """Stretch or squeeze a mel to a number of frames by taking the nearest earlier one.

    Args:
        mel: `(frames, 80)`.
        frames: how many there shall be.

    Returns:
        `(frames, 80)`.
    """
    if frames == 0:
        return mel[:0]
    return F.interpolate(mel.T[None], size=frames, mode="nearest")[0].T


def make_noise(seed: int, frames: int = NOISE_FRAMES) -> Tensor:
    """Draw the noise that a solve starts from: `(80, frames)` float32."""
    return torch.randn(1, MELS, frames, generator=torch.Generator().manual_seed(seed))[0]


class Flow(nn.Module):
    """The decoder; parameter names are the checkpoint's."""

    def __init__(self, encoder: TokenEncoder, estimator: DiT) -> None:
        super().__init__()
        self.input_embedding = nn.ModuleDict({"embedding": embedding(TABLE_ROWS, encoder.size // 2)})
        self.spk_embed_affine_layer = nn.Linear(SPEAKER_SIZE, MELS)
        self.encoder = encoder
        self.encoder_proj = nn.Linear(encoder.size, MELS)
        self.decoder = nn.ModuleDict({"estimator": estimator})
        self.graphs: StepGraphs | None = None
        """On a GPU: run in these."""
        self._schedule: list[tuple[float, Tensor, Modulation]] = []

    @property
    def estimator(self) -> DiT:
        """What is asked which way to go."""
        estimator = self.decoder["estimator"]
        assert isinstance(estimator, DiT)
        return estimator

    @property
    def dtype(self) -> torch.dtype:
        """What the decoder computes in."""
        return self.encoder_proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.encoder_proj.weight.device

    @property
    def kept(self) -> torch.dtype:
        """What keys and values of the past are kept in."""
        return self.dtype if self.graphs is None else KEPT

    def forward(
        self, columns: Tensor, acoustics: Acoustics, noise: Tensor, trace: FlowTrace | None = None
    ) -> Tensor:
        """Decode a whole utterance.

        Args:
            columns: `(frames, 2)` int64 at 25 Hz; see `codes.to_columns`.
            acoustics: of the reference.
            noise: `(80, n)`, at least twice the frames of reference and utterance together.
            trace: if given, gets every step.

        Returns:
            `(80, 2 * frames)` mel.

        Raises:
            InvalidRequest: there is nothing to decode, or not enough noise for it.
        """
        everything = torch.cat((acoustics.columns.to(self.device), columns.to(self.device)))
        total = MEL_FRAMES_PER_FRAME * everything.shape[0]
        if columns.shape[0] == 0 or total > noise.shape[1]:
            raise InvalidRequest(f"expected 1 to {noise.shape[1]} mel frames in all, found {total}")
        prompt = MEL_FRAMES_PER_FRAME * acoustics.columns.shape[0]
        encoded = self.encoder(self.embed(everything))
        mu = self.encoder_proj(encoded)[0].T.contiguous()  # (80, total)
        condition = F.pad(align_mel(acoustics.mel, prompt).T.to(mu), (0, total - prompt))
        speaker = self.speaker(acoustics.embedding)
        if trace is not None:
            trace.encoded, trace.mu, trace.condition, trace.speaker = encoded[0], mu, condition, speaker
        solved = self.solve([FlowPart(noise[:, :total].to(mu), mu, condition, speaker)], trace=trace)[0]
        if trace is not None:
            trace.mel = solved
        return solved[:, prompt:]

    def embed(self, columns: Tensor) -> Tensor:
        """Look both columns up in the one table: `(frames, 2)` to `(1, frames, size)`."""
        embedded: Tensor = self.input_embedding["embedding"](columns).flatten(1)[None]
        return embedded

    def speaker(self, embedding: Tensor) -> Tensor:
        """Bring a speaker embedding `(192,)` to unit length and to 80 values."""
        unit = F.normalize(embedding.to(self.device, self.dtype), dim=0)
        projected: Tensor = self.spk_embed_affine_layer(unit)
        return projected

    def solve(
        self, parts: Sequence[FlowPart], slots: int = 1, trace: FlowTrace | None = None
    ) -> list[Tensor]:
        """Go from noise to mel in ten Euler steps.

        Args:
            parts: at least one. Where there are several, they are of one length.
            slots: for how many parts a graph has room; the last bits depend on it.
            trace: if given, gets times, first velocities, and x before each step, of the first part.

        Returns:
            `(80, frames)` each.
        """
        made = [part.noise for part in parts]
        given = [part.given() for part in parts]
        for index, (time, dt, modulation) in enumerate(self.schedule()):
            inputs = [
                StepInput(torch.cat((x.expand(2, -1, -1), told), dim=1).transpose(1, 2), part.past(index))
                for x, told, part in zip(made, given, parts, strict=True)
            ]  # rows of (2, frames, 320)
            if trace is not None:
                trace.times.append(time)
                trace.states.append(made[0])
            is_kept = parts[0].states is not None
            for at, (velocity, left) in enumerate(self._step(inputs, modulation, is_kept, slots)):
                velocity = velocity.transpose(1, 2)  # (2, 80, frames)
                states = parts[at].states
                if states is not None and left is not None:
                    states[index].append(left)
                if trace is not None and index == at == 0:
                    trace.first_velocity = velocity
                made[at] = made[at] + dt * ((1.0 + GUIDANCE) * velocity[0] - GUIDANCE * velocity[1])
        return made

    def _step(
        self, inputs: list[StepInput], modulation: Modulation, is_kept: bool, slots: int
    ) -> list[tuple[Tensor, KVState | None]]:
        first = inputs[0]
        is_long_prompt = is_kept and first.past is None and first.frames > LARGEST_PROMPT_GRAPH
        if self.graphs is not None and not is_long_prompt:
            return self.graphs.step(inputs, modulation, is_kept, slots)
        kept = self.kept if is_kept else None
        return [self.estimator(each.rows, modulation, each.past, None, kept) for each in inputs]

    def schedule(self) -> list[tuple[float, Tensor, Modulation]]:
        """Give each step's time, length and modulation; made at the first call."""
        if not self._schedule:
            span = torch.linspace(0, 1, STEPS + 1, device=self.device, dtype=self.dtype)
            span = 1 - torch.cos(span * 0.5 * torch.pi)
            time, dt = span[0], span[1] - span[0]
            schedule = []
            for index in range(1, STEPS + 1):
                modulation = self.estimator.modulation(time)
                schedule.append((float(time), dt, modulation))
                # the time is summed up as the reference sums it, rounding and all
                time = time + dt
                if index < STEPS:
                    dt = span[index + 1] - time
            self._schedule = schedule
            self.estimator.forget_times()
        return self._schedule

    def new_states(self) -> tuple[EncoderState, list[EstimatorState]]:
        """Make the empty states of a stream."""
        return EncoderState(), [EstimatorState() for _ in range(STEPS)]


def load_flow(
    path: Path, device: torch.device, dtype: torch.dtype = torch.float32, progress: Progress | None = None
) -> Flow:
    """Load the decoder from the published `flow.pt`; every dimension is read from the tensors.

    Args:
        path: the file.
        device: where it will run.
        dtype: what it computes in; bfloat16 changes the mel audibly.
        progress: told of bytes read.
    """
    state = read_torch_file(path)
    flow = flow_on_meta(state, path)
    install(flow, state, path, device, dtype, progress)
    return flow


def flow_on_meta(state: Mapping[str, Tensor], path: Path) -> Flow:
    """Build the decoder without its weights; every dimension is read from the tensors' shapes.

    Args:
        state: of the published file.
        path: that file, for errors.
    """
    with torch.device("meta"):
        return Flow(_encoder(state, path), _estimator(state, path))


def _encoder(state: Mapping[str, Tensor], path: Path) -> TokenEncoder:
    heads, head_size = shape_of(state, "encoder.encoders.0.self_attn.pos_bias_u", path)
    inner, _ = shape_of(state, "encoder.encoders.0.feed_forward.w_1.weight", path)
    layers = count(state, "encoder.encoders.{}.norm_ff.weight", path)
    up_layers = count(state, "encoder.up_encoders.{}.norm_ff.weight", path)
    return TokenEncoder(heads * head_size, heads, inner, layers, up_layers)


def _estimator(state: Mapping[str, Tensor], path: Path) -> DiT:
    block = "decoder.estimator.blocks.0."
    all_heads, size = shape_of(state, block + "attn.to_q.weight", path)
    (head_size,) = shape_of(state, block + "attn.q_norm.weight", path)
    inner, _ = shape_of(state, block + "mlp.fc1.weight", path)
    depth = count(state, "decoder.estimator.blocks.{}.attn.to_q.weight", path)
    return DiT(size, all_heads // head_size, head_size, inner, depth)
