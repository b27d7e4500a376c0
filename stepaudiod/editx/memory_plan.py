"""How a GPU's memory is divided, estimated from the headers of the files before anything is loaded.

    │ driver   │ weights │ working memory │ keys and values    │ decoder: prefixes and streams │
      measured   known     measured         allocated at once    grows up to here, then requests wait

The whole is what the card shows. The encoders of recordings have a fifth of the weights: theirs stay on the
host, and cross the bus for each recording, unless all else has its usual size. A budget below what one
request needs is an error that says how much that is. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepaudiod.editx.checkpoint.headers import HasShape, safetensors_header, torch_header
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_CODES, GROUP_FRAMES, SECONDS_PER_GROUP
from stepaudiod.editx.decoder.config import STATE_BYTES, FlowConfig, FlowCosts
from stepaudiod.editx.lengths import MAX_PIECE_SECONDS, MAX_SECONDS, SLACK_SECONDS, SLOWEST
from stepaudiod.editx.lm.config import (
    DEFAULT_POSITIONS,
    DTYPE_BYTES,
    ON_HOST,
    PAGE,
    QUANTIZATION_GROUP,
    Quantization,
    Step1Config,
)
from stepaudiod.errors import EngineUnavailable

CONTEXT_BYTES = 350_000_000
"""What the driver takes of an H200 as soon as a process uses it; see `worker.prepare_gpu`."""
DRIVER_BYTES = 720_000_000
"""The same, with all kernels, libraries and graphs: 0.65 GB were measured."""
WORKING_BYTES = 500_000_000
"""Buffers, workspaces and intermediate results, 0.3 GB, and what is lost between blocks, up to 0.2."""
MARGIN_BYTES = 300_000_000
"""Free memory that is left unused, for other processes."""
STREAMS = 16
"""The most in one batch: `kernels.ROWS`, which can't be imported without Triton."""
LEAST_POSITIONS = 4096
"""Positions of the longest single request: a reference of 30 s and the longest piece of text."""
LEAST_VOICE_SECONDS = 6.0
"""A reference of this length always fits."""
POOLS_SHARE = 1 / 5
"""The pool's least share of the memory beyond one request, until it has its usual size."""
FLOAT_BYTES = 4
"""Bytes per value of an encoder's weights, on which codes depend."""
OF_TIMES_ONLY = ("adaLN_modulation", "t_embedder")
"""Parts of the flow decoder's tensors that are freed after loading."""


@dataclass(frozen=True)
class MemoryPlan:
    """The parts of the memory.

    The positions and the pool are of the keys and values of all sequences, the decoder's part of its prefixes
    and streams; the longest reference fits beside a stream of its own. The encoders' weights are among the
    others if `keeps_encoders`.
    """

    weights_bytes: int
    positions: int
    pool_bytes: int
    decoder_bytes: int
    longest_voice_s: float
    keeps_encoders: bool

    @property
    def total_bytes(self) -> int:
        """What the card shows."""
        return DRIVER_BYTES + self.allocated_bytes

    @property
    def allocated_bytes(self) -> int:
        """The part of it that PyTorch allocates."""
        return self.weights_bytes + WORKING_BYTES + self.pool_bytes + self.decoder_bytes


@dataclass(frozen=True)
class MemoryNeeds:
    """The memory that a checkpoint needs on a GPU: all networks, and the decoder's state."""

    config: Step1Config
    value_bytes: int
    weights_bytes: int
    encoder_bytes: int
    costs: FlowCosts

    @classmethod
    def of(cls, checkpoint: Checkpoint, dtype: str, quantization: Quantization | None) -> MemoryNeeds:
        """Read the headers of a checkpoint's files; `dtype` is a key of `lm.config.DTYPES`.

        Raises:
            ModelFileError: a file is missing or broken.
        """
        config = Step1Config.read(checkpoint.config)
        value_bytes = DTYPE_BYTES[dtype]
        flow = torch_header(checkpoint.flow)
        linguistic = torch_header(checkpoint.linguistic / "model.pt")
        language = {
            name: entry for path in checkpoint.shards() for name, entry in safetensors_header(path).items()
        }
        weights = (
            _language_model(language, value_bytes, quantization)
            + 2 * (AUDIO_CODES + 1) * config.hidden_size * value_bytes  # codes in, codes out
            + _values(flow, lambda name: not any(part in name for part in OF_TIMES_ONLY)) * STATE_BYTES
            + _values(torch_header(checkpoint.vocoder)) * STATE_BYTES
        )
        encoders = (
            _values(linguistic, lambda name: name.startswith("encoder.")) * FLOAT_BYTES
            + checkpoint.centroids.stat().st_size
            + 2 * checkpoint.speaker_encoder.stat().st_size  # most of it runs in float64
            + checkpoint.semantic.stat().st_size
        )
        costs = FlowCosts.of(FlowConfig.read(flow, checkpoint.flow), STATE_BYTES)
        return cls(config, value_bytes, weights, encoders, costs)

    @property
    def stream_bytes(self) -> int:
        """Size of the longest stream of a piece of text in the decoder."""
        return self.costs.stream_bytes(_frames(SLOWEST * MAX_PIECE_SECONDS + SLACK_SECONDS))

    def least(self) -> MemoryPlan:
        return self._divide(
            LEAST_POSITIONS, self.costs.prefix_bytes(_frames(LEAST_VOICE_SECONDS)) + self.stream_bytes
        )

    def most(self) -> MemoryPlan:
        """Memory for a full batch with one reference of the longest; more would hardly be used."""
        voice = self.costs.prefix_bytes(_frames(MAX_SECONDS))
        return self._divide(DEFAULT_POSITIONS, voice + STREAMS * self.stream_bytes, keeps_encoders=True)

    def wanted_bytes(self, budget_bytes: int | None) -> int:
        """Memory that must be free before this process uses the card: budget, or the least, and margin."""
        return (self.least().total_bytes if budget_bytes is None else budget_bytes) + MARGIN_BYTES

    def plan(self, budget_bytes: int | None, free_bytes: int) -> MemoryPlan:
        """Divide the budget, or without one the memory of `most`, or all that is free of the card.

        `free_bytes` are those before this process used it.

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
                f"step_audio.gpu_memory requires {_gb(budget)}, and of this GPU {_gb(usable)} are available "
                "at the moment. nvidia-smi lists the processes that use it; end them, or set less."
            )
        if budget >= most.total_bytes:
            return most
        spare = budget - least.total_bytes
        wanted = most.pool_bytes - least.pool_bytes
        beside_decoder = spare - (most.decoder_bytes - least.decoder_bytes)  # what that would hardly use
        share = min(max(spare * POOLS_SHARE, beside_decoder), wanted)
        more = share / wanted * (DEFAULT_POSITIONS - LEAST_POSITIONS)
        positions = LEAST_POSITIONS + int(more) // PAGE * PAGE
        decoder = budget - DRIVER_BYTES - self.weights_bytes - WORKING_BYTES - self._pool_bytes(positions)
        return self._divide(positions, min(decoder, most.decoder_bytes))

    def _divide(self, positions: int, decoder_bytes: int, keeps_encoders: bool = False) -> MemoryPlan:
        voice = self.costs.frames_in(decoder_bytes - self.stream_bytes)
        seconds = min(MAX_SECONDS, voice / GROUP_FRAMES * SECONDS_PER_GROUP)
        weights = self.weights_bytes + (self.encoder_bytes if keeps_encoders else 0)
        return MemoryPlan(
            weights, positions, self._pool_bytes(positions), decoder_bytes, seconds, keeps_encoders
        )

    def _pool_bytes(self, positions: int) -> int:
        return self.config.pool_bytes(positions, self.value_bytes)

    def _too_little(self, budget_bytes: int | None, usable: int, least: MemoryPlan) -> str:
        request = least.total_bytes - DRIVER_BYTES - self.weights_bytes
        needs = (
            f"{_gb(least.total_bytes)}: {_gb(self.weights_bytes)} for weights, {_gb(DRIVER_BYTES)} for the "
            f"driver, {_gb(request)} for one request"
        )
        less = 'step_audio.quantization = "int8" or "int4" needs less'
        if budget_bytes is not None:
            allowed = f"step_audio.gpu_memory allows {_gb(budget_bytes)}"
            return f"{allowed}, and the model needs {needs}. Raise it; {less}."
        return (
            f"Of this GPU {_gb(usable)} are available, and the model needs {needs}. Free some of it; {less}."
        )


def _language_model(
    tensors: Mapping[str, Mapping[str, Any]], value_bytes: int, quantization: Quantization | None
) -> int:
    """Bytes of its tensors on the GPU; the tables of the whole vocabulary stay on the host."""
    total = 0
    for name, entry in tensors.items():
        shape = entry["shape"]
        values = math.prod(shape)
        if name in ON_HOST:
            continue
        if quantization is None or len(shape) != 2 or ".layers." not in name:
            total += values * value_bytes
        elif quantization is Quantization.INT8:
            total += values + shape[0] * value_bytes
        else:
            total += values // 2 + 2 * (values // QUANTIZATION_GROUP) * value_bytes
    return total


def _values(tensors: Mapping[str, HasShape], is_counted: Callable[[str], bool] = lambda _: True) -> int:
    return sum(math.prod(tensor.shape) for name, tensor in tensors.items() if is_counted(name))


def _frames(seconds: float) -> int:
    """Frames at 25 Hz, with the reference's last three, which wait for what follows."""
    return round(seconds / SECONDS_PER_GROUP) * GROUP_FRAMES + GROUP_FRAMES


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
