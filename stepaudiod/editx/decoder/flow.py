"""Codes to mel: flow matching from noise, guided by codes, a speaker and the reference's own mel.

    codes ── columns ── embedding ── token encoder ── mu ───────┐
    speaker embedding ── unit length ── linear ── speaker ──────┼── ten steps from noise ── mel at 50 Hz
    reference mel, then zeros ───────────────────── condition ──┘

Guidance runs a second row with all conditions zero. Independent of waveforms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.weights import install, read_torch_file, without_values
from stepaudiod.editx.decoder.config import STEPS, FlowConfig
from stepaudiod.editx.decoder.dit import MELS, DiT, EstimatorState, Modulation
from stepaudiod.editx.decoder.token_encoder import TokenEncoder

GUIDANCE = 0.7
TABLE_ROWS = 5121
SPEAKER_SIZE = 192
MODULATIONS, OUTPUT_MODULATIONS = "schedule.blocks", "schedule.output"
"""Names of prepared tensors."""


@dataclass(frozen=True)
class Acoustics:
    """The decoder's conditions from a reference.

    Args:
        columns: `(frames, 2)` int64, its codes in time; see `interleaving.to_columns`.
        mel: `(mel frames, 80)`; resampled to the codes' length where it differs.
        embedding: `(192,)` from CAM++.
    """

    columns: Tensor
    mel: Tensor
    embedding: Tensor

    @cached_property
    def key(self) -> str:
        """Equal for equal references."""
        digest = hashlib.sha256()
        for tensor in (self.columns, self.mel, self.embedding):
            digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class FlowPart:
    """The inputs of a solve, for one chunk.

    Args:
        noise: `(80, frames)`.
        mu: `(80, frames)` from the token encoder.
        condition: `(80, frames)` reference mel or zeros.
        speaker: `(80,)`.
        states: of earlier chunks, one for each step; they grow.
    """

    noise: Tensor
    mu: Tensor
    condition: Tensor
    speaker: Tensor
    states: list[EstimatorState]

    def conditions(self) -> Tensor:
        """The inputs of every step, with conditions and without: `(2, 240, frames)`."""
        given = torch.cat((self.mu, self.speaker[:, None].expand_as(self.mu), self.condition))
        return torch.stack((given, torch.zeros_like(given)))


def align_mel(mel: Tensor, frames: int) -> Tensor:
    """Resample a mel `(frames, 80)` to a number of frames by taking the nearest earlier one."""
    if frames == 0:
        return mel[:0]
    return F.interpolate(mel.T[None], size=frames, mode="nearest")[0].T


class Flow(nn.Module):
    """The decoder; parameter names are the checkpoint's."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        size = config.encoder_size
        self.input_embedding = nn.ModuleDict({"embedding": nn.Embedding(TABLE_ROWS, size // 2)})
        self.spk_embed_affine_layer = nn.Linear(SPEAKER_SIZE, MELS)
        self.encoder = TokenEncoder(
            size, config.encoder_heads, config.encoder_inner, config.encoder_layers, config.up_layers
        )
        self.encoder_proj = nn.Linear(size, MELS)
        self.decoder = nn.ModuleDict({"estimator": DiT(config)})
        self._schedule: list[tuple[float, Tensor, Modulation]] = []

    @property
    def estimator(self) -> DiT:
        estimator = self.decoder["estimator"]
        assert isinstance(estimator, DiT)
        return estimator

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder_proj.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.encoder_proj.weight.device

    def embed(self, columns: Tensor) -> Tensor:
        """Look up both columns in one table: `(frames, 2)` to `(1, frames, size)`."""
        embedded: Tensor = self.input_embedding["embedding"](columns).flatten(1)[None]
        return embedded

    def speaker(self, embedding: Tensor) -> Tensor:
        """Normalise a speaker embedding `(192,)` and project it to 80 values.

        Computed on the CPU: a GPU would load kernels for it, 0.1 s of the first sound.
        """
        unit = F.normalize(embedding.to("cpu", self.dtype), dim=0)
        layer = self.spk_embed_affine_layer
        return F.linear(unit, layer.weight.cpu(), layer.bias.cpu()).to(self.device)

    def solve(self, part: FlowPart) -> Tensor:
        """Integrate from noise to mel, `(80, frames)`, in ten Euler steps."""
        x, given = part.noise, part.conditions()
        for (_, dt, modulation), state in zip(self.schedule(), part.states, strict=True):
            rows = torch.cat((x.expand(2, -1, -1), given), dim=1).transpose(1, 2)  # (2, frames, 320)
            velocity, new = self.estimator(rows, modulation, state.past)
            velocity = velocity.transpose(1, 2)  # (2, 80, frames)
            state.append(new)
            x = x + dt * ((1.0 + GUIDANCE) * velocity[0] - GUIDANCE * velocity[1])
        return x

    def schedule(self) -> list[tuple[float, Tensor, Modulation]]:
        """Each step's time, length and modulation; computed at the first call."""
        if not self._schedule:
            steps = _euler_steps(self.device, self.dtype)
            self._schedule = [(float(time), dt, self.estimator.modulation(time)) for time, dt in steps]
            self.estimator.forget_times()
        return self._schedule

    def prepared(self) -> dict[str, Tensor]:
        """The tensors from which `build_flow` builds it with its modulations computed."""
        modulations = [modulation for _, _, modulation in self.schedule()]
        return self.state_dict() | {
            MODULATIONS: torch.stack([modulation.blocks for modulation in modulations]),
            OUTPUT_MODULATIONS: torch.stack([modulation.output for modulation in modulations]),
        }

    def restore_schedule(self, blocks: Tensor, output: Tensor) -> None:
        """Take modulations that were computed before: `(10, depth, 9, size)` and `(10, 2, size)`."""
        self._schedule = [
            (float(time), dt.to(blocks.device), Modulation(*step))
            for (time, dt), *step in zip(
                _euler_steps(torch.device("cpu"), blocks.dtype), blocks, output, strict=True
            )
        ]


def _euler_steps(device: torch.device, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """The time and the length of each step, `()` both."""
    span = torch.linspace(0, 1, STEPS + 1, device=device, dtype=dtype)
    span = 1 - torch.cos(span * 0.5 * torch.pi)
    time, dt = span[0], span[1] - span[0]
    steps = []
    for index in range(1, STEPS + 1):
        steps.append((time, dt))
        # the time is accumulated as the reference does it, with its rounding
        time = time + dt
        if index < STEPS:
            dt = span[index + 1] - time
    return steps


def load_flow(path: Path, device: torch.device) -> Flow:
    """Load the decoder from the published `flow.pt`."""
    return build_flow(read_torch_file(path), path, device)


def build_flow(state: Mapping[str, Tensor], source: Path, device: torch.device) -> Flow:
    """Build the decoder, in float32: bfloat16 changes the mel audibly.

    The tensors are those of `flow.pt` or of `Flow.prepared`; they may get their values later.
    """
    with without_values():
        flow = Flow(FlowConfig.read(state, source))
    if is_prepared := MODULATIONS in state:
        flow.estimator.forget_times()
    install(flow, state, source, device, torch.float32)
    if is_prepared:
        flow.restore_schedule(state[MODULATIONS], state[OUTPUT_MODULATIONS])
    return flow
