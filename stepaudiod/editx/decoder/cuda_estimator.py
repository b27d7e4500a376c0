"""The flow decoder's estimator on a GPU: chunks of many streams, rows behind each other.

    rows     ┊past┊── chunk A ──┊past┊── chunk B ──┊ …      mel frames; two rows of the past before each
    guided   the same rows twice: with conditions, and `rows` further without

Weights and activations between kernels are in half precision, which has as many digits as TF32; sums, norms
and the mel itself in float32. See `dit` for the network, `flow` for the solver.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor, nn

from stepaudiod.editx.decoder.arena import Arena
from stepaudiod.editx.decoder.attention import TILE, attend
from stepaudiod.editx.decoder.dit import MELS, DiTBlock
from stepaudiod.editx.decoder.flow import GUIDANCE, Flow
from stepaudiod.editx.decoder.products import Act, Gate, Weights, multiply
from stepaudiod.editx.decoder.row_kernels import advance, begin, between
from stepaudiod.editx.decoder.runner import MEL_NOISE
from stepaudiod.editx.decoder.table import FlowTables


@dataclass(frozen=True)
class _Block:
    """Weights of a block of the estimator; `norms` `(4, head)` of queries and keys, `middle` `(2, size)`."""

    qkv: Weights
    norms: Tensor
    out: Weights
    convs: list[Weights]
    middle: Tensor
    inner: list[Weights]

    @classmethod
    def of(cls, block: nn.Module, dtype: torch.dtype) -> _Block:
        assert isinstance(block, DiTBlock)
        attention, conv = block.attn, block.conv.block
        q, k, middle = attention.q_norm, attention.k_norm, conv["3"]
        assert isinstance(middle, nn.LayerNorm)
        return cls(
            Weights.of(dtype, attention.to_q, attention.to_k, attention.to_v),
            torch.stack([x.detach().float() for x in (q.weight, q.bias, k.weight, k.bias)]),
            Weights.of(dtype, attention.proj),
            [Weights.of(dtype, conv[name]) for name in ("1", "6")],
            torch.stack([x.detach().float() for x in (middle.weight, middle.bias)]),
            [Weights.of(dtype, block.mlp[name]) for name in ("fc1", "fc2")],
        )


class EstimatorKernels:
    """The estimator as products read it, in `dtype`; buffers for up to `rows` rows are in the arena."""

    def __init__(self, flow: Flow, dtype: torch.dtype, rows: int, arena: Arena) -> None:
        self._config, self._dtype, self._arena = flow.config, dtype, arena
        schedule, estimator, device = flow.schedule(), flow.estimator, flow.device
        self._times = torch.stack([dt for _, dt, _ in schedule]).float().contiguous()
        modulations = [torch.cat((m.blocks.flatten(0, 1), m.output)).float() for _, _, m in schedule]
        self._vectors = torch.stack(modulations)  # (steps, 9 * blocks + 2, size)
        self._blocks = [_Block.of(block, dtype) for block in estimator.blocks]
        self._input = Weights.of(dtype, estimator.in_proj)
        self._output = Weights.of(dtype, estimator.final_layer.linear)
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._inputs = torch.zeros(2 * rows, 4 * MELS, dtype=dtype, device=device)
        self.mel = torch.zeros(rows, MELS, device=device)
        self._buffers(rows)

    def begin(self, mu: Tensor, tables: FlowTables) -> None:
        """Set up the first step from what the token encoder gave, `(rows, 80)`."""
        rows = len(tables.rows)
        self._step.zero_()
        begin[(rows,)](
            mu, self.mel, self._inputs, tables.parts, tables.rows, rows,
            STREAM=MEL_NOISE, MELS=MELS, BLOCK=triton.next_power_of_2(MELS), num_warps=1,
        )  # fmt: skip

    def step(self, tables: FlowTables) -> None:
        """Run the estimator once with conditions and once without, and take one Euler step."""
        rows = tables.rows.shape[0]
        buffers = self._buffers(rows)
        multiply(self._inputs[: 2 * rows], self._input, buffers.x)
        self._between(buffers, tables, 0, 0, buffers.normed)
        for index, block in enumerate(self._blocks):
            self._run_block(index, block, buffers, tables)
        multiply(buffers.normed, self._output, buffers.velocity)
        advance[(rows,)](
            buffers.velocity, self.mel, self._inputs, tables.rows, self._times, self._step, rows,
            GUIDANCE=GUIDANCE, MELS=MELS, BLOCK=triton.next_power_of_2(MELS), num_warps=1,
        )  # fmt: skip
        self._step.add_(1)

    def _run_block(self, index: int, block: _Block, buffers: _Buffers, tables: FlowTables) -> None:
        """Attention, convolutions, feed-forward: each reads x in a norm, and is added to x behind a gate.

        A block's nine vectors are shift, scale and gate of attention, feed-forward and convolutions.
        """
        config, x, first = self._config, buffers.x, 9 * index
        multiply(buffers.normed, block.qkv, buffers.qkv)
        attend[(len(tables.tiles), config.heads, 2)](
            buffers.qkv, buffers.attended, tables.parts, tables.tiles, self._step, block.norms,
            len(tables.rows), index, config.depth,
            HEADS=config.heads, HEAD=config.head_size, BLOCK=TILE, PRECISION=self._precision,
        )  # fmt: skip
        multiply(buffers.attended, block.out, x, gate=self._gate(first + 2), added=x)
        self._between(buffers, tables, index, first + 6, buffers.columns[0], past=0, block=block)
        multiply(buffers.columns[0], block.convs[0], buffers.y, offset=2)
        self._between(buffers, tables, index, None, buffers.columns[1], past=1, kept=0, block=block)
        multiply(buffers.columns[1], block.convs[1], x, offset=2, gate=self._gate(first + 8), added=x)
        self._between(buffers, tables, index, first + 3, buffers.normed, kept=1)
        multiply(buffers.normed, block.inner[0], buffers.inner, act=Act.GELU)
        multiply(buffers.inner, block.inner[1], x, gate=self._gate(first + 5), added=x)
        self._between(buffers, tables, index, first + 9, buffers.normed)

    def _between(
        self,
        buffers: _Buffers,
        tables: FlowTables,
        index: int,
        vector: int | None,
        y: Tensor,
        *,
        past: int = -1,
        kept: int = -1,
        block: _Block | None = None,
    ) -> None:
        """See `row_kernels.between`; without a vector it is the norm between the convolutions."""
        config, is_mish = self._config, vector is None
        assert block is not None or not is_mish
        between[(2 * len(tables.rows),)](
            buffers.y if is_mish else buffers.x, y,
            block.middle if block is not None and is_mish else self._vectors[0, vector or 0],
            buffers.columns[max(kept, 0)], tables.parts, tables.rows, self._step, buffers.qkv,
            None if block is None else block.norms, self._vectors.stride(0), len(tables.rows), index,
            config.depth,
            PAST=past, KEPT=kept, IS_MISH=is_mish, HAS_KEYS=block is not None and not is_mish,
            SIZE=config.size, HEADS=config.heads, HEAD=config.head_size,
        )  # fmt: skip

    def _gate(self, vector: int) -> Gate:
        return Gate(self._vectors[0, vector], self._vectors.stride(0), self._step)

    @property
    def _precision(self) -> str:
        return "ieee" if self._dtype is torch.float32 else "tf32"

    def _buffers(self, rows: int) -> _Buffers:
        config, arena, both, dtype = self._config, self._arena, 2 * rows, self._dtype
        arena.clear()
        return _Buffers(
            arena.take(both, config.size),
            arena.take(both, config.size),
            arena.take(both, config.size, dtype),
            arena.take(both, 3 * config.size, dtype),
            arena.take(both, config.size, dtype),
            [arena.take(both, config.size, dtype) for _ in range(2)],
            arena.take(both, config.inner, dtype),
            arena.take(both, MELS),
        )


@dataclass(frozen=True)
class _Buffers:
    """Activations: x and y are float32; both inputs of convolutions are `columns`."""

    x: Tensor
    y: Tensor
    normed: Tensor
    qkv: Tensor
    attended: Tensor
    columns: list[Tensor]
    inner: Tensor
    velocity: Tensor
