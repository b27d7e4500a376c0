"""How a GPU's memory is divided, reckoned from the files' headers before anything is loaded.

    │ weights │ what computing needs │ keys and values of all sequences │ voices and streams of the decoder │
      known     measured, rounded up   made at once                       grows up to here, then others wait

A budget that holds less than the weights and one request is an error that says how much it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.headers import safetensors_header
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.checkpoint.weights import read_torch_file
from stepaudiod.editx.codes import AUDIO_CODES, GROUP_FRAMES, SECONDS_PER_GROUP
from stepaudiod.editx.decoder.flow import flow_on_meta
from stepaudiod.editx.decoder.reference_prefix import FlowCosts
from stepaudiod.editx.decoder.step_graphs import KEPT
from stepaudiod.editx.decoder.streaming import REMEMBERED_FRAMES
from stepaudiod.editx.lengths import MAX_PIECE_SECONDS, SLACK_SECONDS, SLOWEST
from stepaudiod.editx.lm.kv_cache import KVPool
from stepaudiod.editx.lm.quantize import GROUP_SIZE, Quantization
from stepaudiod.editx.lm.scheduler import DEFAULT_POSITIONS
from stepaudiod.editx.lm.step1 import ON_HOST, Step1Config
from stepaudiod.editx.segments import MAX_SECONDS
from stepaudiod.errors import EngineUnavailable

WORKING_BYTES = 450_000_000
"""What computing needs beside weights and what is kept: graphs, their rooms, passing results. On an H100 it
was 0.35 GB with rooms for one chunk of a voice of 6 s; those for several or a long voice take 0.07 more."""
MARGIN_BYTES = 600_000_000
"""Of the free memory of a card, what is left: to others, and to what the driver loads later."""
STREAMS = 16
"""In one batch at most; see `kernels.ROWS`, which can't be imported without Triton."""
LEAST_POSITIONS = 4096
"""For the longest single request: a reference of 30 s, and what a piece of text may take."""
LEAST_VOICE_SECONDS = 6.0
"""A voice for which there is always room."""
POOLS_SHARE = 1 / 3
"""Of what is left beyond one request, until the pool has its usual size."""
OF_TIMES_ONLY = ("adaLN_modulation", "t_embedder")
"""Parts of the flow decoder's tensors that loading lets go of."""


@dataclass(frozen=True)
class MemoryPlan:
    """How the memory is divided.

    Args:
        weights_bytes: of all networks.
        positions: of the language model's keys and values, of all sequences together.
        pool_bytes: of those.
        decoder_bytes: of the decoder's voices and streams.
        longest_voice_s: for which there is room beside a stream of its own.
    """

    weights_bytes: int
    positions: int
    pool_bytes: int
    decoder_bytes: int
    longest_voice_s: float

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + WORKING_BYTES + self.pool_bytes + self.decoder_bytes


@dataclass(frozen=True)
class MemoryNeeds:
    """What a checkpoint takes on a GPU.

    Args:
        config: of the language model.
        dtype: its arithmetic.
        weights_bytes: of all networks.
        costs: of what the decoder keeps.
    """

    config: Step1Config
    dtype: torch.dtype
    weights_bytes: int
    costs: FlowCosts

    @classmethod
    def of(cls, checkpoint: Checkpoint, dtype: torch.dtype, quantization: Quantization | None) -> MemoryNeeds:
        """Read the headers of a checkpoint's files.

        Raises:
            ModelFileError: one of them is missing or broken.
        """
        config = Step1Config.read(checkpoint.config)
        flow = read_torch_file(checkpoint.flow)
        linguistic = read_torch_file(checkpoint.linguistic / "model.pt")
        language = {
            name: entry for path in checkpoint.shards() for name, entry in safetensors_header(path).items()
        }
        weights = (
            _language_model(language, dtype, quantization)
            + 2 * (AUDIO_CODES + 1) * config.hidden_size * dtype.itemsize  # codes in, codes out
            + _float32({n: t for n, t in flow.items() if not any(part in n for part in OF_TIMES_ONLY)})
            + _float32({name: t for name, t in linguistic.items() if name.startswith("encoder.")})
            + _float32(read_torch_file(checkpoint.vocoder))
            + checkpoint.centroids.stat().st_size
            + 2 * checkpoint.speaker_encoder.stat().st_size  # most of it runs in float64
            + checkpoint.semantic.stat().st_size
        )
        costs = FlowCosts.of(flow_on_meta(flow, checkpoint.flow), KEPT)
        return cls(config, dtype, weights, costs)

    def pool_bytes(self, positions: int) -> int:
        """Keys and values of so many positions."""
        return KVPool.size_bytes(self.config, positions, self.dtype)

    @property
    def stream_bytes(self) -> int:
        """The decoder's part of the longest stream that a piece of text becomes."""
        seconds = SLOWEST * MAX_PIECE_SECONDS + SLACK_SECONDS
        return self.costs.stream_bytes(_frames(seconds), REMEMBERED_FRAMES)

    def least(self) -> MemoryPlan:
        """Memory for one request."""
        return self._divide(
            LEAST_POSITIONS, self.costs.prompt_bytes(_frames(LEAST_VOICE_SECONDS)) + self.stream_bytes
        )

    def most(self) -> MemoryPlan:
        """Memory beyond which more would hardly be used: a full batch, all with one voice of the longest."""
        voice = self.costs.prompt_bytes(_frames(MAX_SECONDS))
        return self._divide(DEFAULT_POSITIONS, voice + STREAMS * self.stream_bytes)

    def wanted_bytes(self, budget_bytes: int | None) -> int:
        """What must be free for a plan: the budget, or the least there is, and the margin."""
        return (self.least().total_bytes if budget_bytes is None else budget_bytes) + MARGIN_BYTES

    def plan(self, budget_bytes: int | None, free_bytes: int) -> MemoryPlan:
        """Divide the memory.

        Args:
            budget_bytes: what may be used; None for what is good, as far as it is free.
            free_bytes: of the card.

        Raises:
            EngineUnavailable: it is too little for the weights and one request.
        """
        most, least = self.most(), self.least()
        usable = max(0, free_bytes - MARGIN_BYTES)
        budget = min(most.total_bytes, usable) if budget_bytes is None else budget_bytes
        if budget < least.total_bytes:
            raise EngineUnavailable(self._too_little(budget_bytes, usable, least))
        if budget > usable:
            raise EngineUnavailable(
                f"step_audio.gpu_memory asks for {_gb(budget)}, and of this GPU {_gb(usable)} can be had at "
                "the moment. nvidia-smi shows who uses it; free it, or set less."
            )
        left = budget - least.total_bytes
        wanted = most.pool_bytes - least.pool_bytes
        more = min(left * POOLS_SHARE, wanted) / wanted * (DEFAULT_POSITIONS - LEAST_POSITIONS)
        # whole sixteens: then Triton takes the same kernels for every size of the pool
        positions = LEAST_POSITIONS + int(more) // 16 * 16
        decoder = budget - self.weights_bytes - WORKING_BYTES - self.pool_bytes(positions)
        return self._divide(positions, decoder)

    def _divide(self, positions: int, decoder_bytes: int) -> MemoryPlan:
        voice = self.costs.frames_in(decoder_bytes - self.stream_bytes)
        seconds = min(MAX_SECONDS, voice / GROUP_FRAMES * SECONDS_PER_GROUP)
        return MemoryPlan(self.weights_bytes, positions, self.pool_bytes(positions), decoder_bytes, seconds)

    def _too_little(self, budget_bytes: int | None, usable: int, least: MemoryPlan) -> str:
        request = least.total_bytes - self.weights_bytes
        needs = (
            f"{_gb(least.total_bytes)}: {_gb(self.weights_bytes)} for weights, {_gb(request)} for one request"
        )
        less = 'step_audio.quantization = "int8" or "int4" needs less'
        if budget_bytes is not None:
            allowed = f"step_audio.gpu_memory allows {_gb(budget_bytes)}"
            return f"{allowed}, and the model needs {needs}. Raise it; {less}."
        return f"Of this GPU {_gb(usable)} can be had, and the model needs {needs}. Free some of it; {less}."


def _language_model(
    tensors: Mapping[str, Mapping[str, Any]], dtype: torch.dtype, quantization: Quantization | None
) -> int:
    """Bytes of its tensors on the GPU; the tables of the whole vocabulary stay on the host."""
    total = 0
    for name, entry in tensors.items():
        shape = entry["shape"]
        values = torch.Size(shape).numel()
        if name in ON_HOST:
            continue
        if quantization is None or len(shape) != 2 or ".layers." not in name:
            total += values * dtype.itemsize
        elif quantization is Quantization.INT8:
            total += values + shape[0] * dtype.itemsize
        else:
            total += values // 2 + 2 * (values // GROUP_SIZE) * dtype.itemsize
    return total


def _float32(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values()) * torch.float32.itemsize


def _frames(seconds: float) -> int:
    """Frames at 25 Hz, with those of the reference that wait for what follows."""
    return round(seconds / SECONDS_PER_GROUP) * GROUP_FRAMES + GROUP_FRAMES


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
