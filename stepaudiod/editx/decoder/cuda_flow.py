"""The flow decoder on a GPU: chunks of many streams, rows behind each other, in kernels that graphs record.

    rows     ┊past┊── chunk A ──┊past┊── chunk B ──┊ …      mel frames; two rows of the past before each
    guided   the same rows twice: with conditions, and `rows` further without
    coded    ┊past┊─ A ─┊next┊past┊─ B ─┊next┊ …            frames at 25 Hz; three after each, looked at ahead

Weights and activations between kernels are in half precision, which has as many digits as TF32; sums, norms
and the mel itself in float32. See `flow`, `token_encoder` and `dit` for the networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor, nn

from stepaudiod.editx.decoder.arena import Arena
from stepaudiod.editx.decoder.attention import TILE, attend, attend_relative, turn
from stepaudiod.editx.decoder.dit import MELS, DiTBlock
from stepaudiod.editx.decoder.flow import GUIDANCE, Flow
from stepaudiod.editx.decoder.products import Act, Gate, Weights, multiply
from stepaudiod.editx.decoder.row_kernels import advance, begin, between, embed, exchange, layer_norm
from stepaudiod.editx.decoder.runner import MEL_NOISE
from stepaudiod.editx.decoder.token_encoder import ConformerLayer, InputLayer

POSITIONS = 8192
"""Mel frames of the longest utterance, its voice included: 164 s."""


@dataclass(frozen=True)
class FlowTables:
    """Where the chunks are.

    Args:
        parts: `(slots, len(Part))` int64.
        rows: `(rows, 2)` int64: slot, or -1, and mel frame, below 0 for the past.
        coded: `(coded rows, 2)` int64, likewise at 25 Hz.
        codes: `(coded rows, 2)` int64: a frame's codes, -1 for zeros.
        doubled: `(rows,)` int64: twice the row at 25 Hz of the oldest frame that the convolution reads, plus
            the place in it.
        tiles, coded_tiles: `(n, 2)` int64: slot, or -1, and first frame of a tile of queries.
    """

    parts: Tensor
    rows: Tensor
    coded: Tensor
    codes: Tensor
    doubled: Tensor
    tiles: Tensor
    coded_tiles: Tensor


class _Encoder:
    """The token encoder's weights."""

    def __init__(self, flow: Flow, dtype: torch.dtype) -> None:
        encoder = flow.encoder
        self.embeddings = flow.input_embedding["embedding"].weight
        self.input, self.up_input = _Input.of(encoder.embed, dtype), _Input.of(encoder.up_embed, dtype)
        self.ahead = Weights.of(dtype, encoder.pre_lookahead_layer.conv1)
        self.behind = Weights.of(dtype, encoder.pre_lookahead_layer.conv2)
        self.up = Weights.of(dtype, encoder.up_layer.conv)
        self.layers = [_EncoderLayer.of(layer, dtype) for layer in encoder.encoders]
        self.up_layers = [_EncoderLayer.of(layer, dtype) for layer in encoder.up_encoders]
        self.norm = encoder.after_norm
        self.out = Weights.of(dtype, flow.encoder_proj)


@dataclass(frozen=True)
class _Input:
    linear: Weights
    norm: nn.LayerNorm
    scale: float

    @classmethod
    def of(cls, layer: InputLayer, dtype: torch.dtype) -> _Input:
        linear, norm = layer.out
        assert isinstance(norm, nn.LayerNorm)
        return cls(Weights.of(dtype, linear), norm, layer.scale)


@dataclass(frozen=True)
class _EncoderLayer:
    norms: list[nn.LayerNorm]
    qkv: Weights
    positions: Tensor  # (heads, 2, head, size / 2): of sines, of cosines
    content_bias: Tensor
    position_bias: Tensor
    out: Weights
    inner: list[Weights]

    @classmethod
    def of(cls, layer: nn.Module, dtype: torch.dtype) -> _EncoderLayer:
        assert isinstance(layer, ConformerLayer)
        attention, forward = layer.self_attn, layer.feed_forward
        size = attention.linear_pos.weight.shape[0]
        # (heads, head, size / 2, 2) -> (heads, 2, head, size / 2)
        positions = attention.linear_pos.weight.detach().view(
            attention.heads, attention.head_size, size // 2, 2
        )
        return cls(
            [layer.norm_mha, layer.norm_ff],
            Weights.of(dtype, attention.linear_q, attention.linear_k, attention.linear_v),
            positions.permute(0, 3, 1, 2).to(dtype).contiguous(),
            attention.pos_bias_u.detach().float().clone(),
            attention.pos_bias_v.detach().float().clone(),
            Weights.of(dtype, attention.linear_out),
            [Weights.of(dtype, forward.w_1), Weights.of(dtype, forward.w_2)],
        )


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


class FlowKernels:
    """Both networks as products read them. Their float32 weights are freed, all but a few.

    Args:
        flow: the decoder.
        dtype: of products.
        rows: the most that a call has.
        arena: for buffers between kernels.
    """

    def __init__(self, flow: Flow, dtype: torch.dtype, rows: int, arena: Arena) -> None:
        config, device = flow.config, flow.device
        self.config, self._dtype, self._arena = config, dtype, arena
        schedule = flow.schedule()
        self._times = torch.stack([dt for _, dt, _ in schedule]).float().contiguous()
        modulations = [torch.cat((m.blocks.flatten(0, 1), m.output)).float() for _, _, m in schedule]
        self._vectors = torch.stack(modulations)  # (steps, 9 * blocks + 2, size)
        estimator = flow.estimator
        self._blocks = [_Block.of(block, dtype) for block in estimator.blocks]
        self._input = Weights.of(dtype, estimator.in_proj)
        self._output = Weights.of(dtype, estimator.final_layer.linear)
        self._encoder = _Encoder(flow, dtype)
        self._sinusoids = _sinusoids(config.encoder_size, device).to(dtype)
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._inputs = torch.zeros(2 * rows, 4 * MELS, dtype=dtype, device=device)
        self.mel = torch.zeros(rows, MELS, device=device)
        self._buffers(rows)
        self._encoder_buffers(rows, rows)

    # ---- the token encoder, and the solver's first inputs

    def begin(self, tables: FlowTables) -> None:
        """Encode, and set up the first step."""
        rows, coded = tables.rows.shape[0], tables.coded.shape[0]
        encoder, buffers = self._encoder, self._encoder_buffers(rows, coded)
        size = self.config.encoder_size
        x, y, a, b = (each[:coded] for each in (buffers.x, buffers.y, buffers.normed, buffers.attended))
        embed[(coded,)](tables.codes, encoder.embeddings, a, HALF=size // 2)
        multiply(a, encoder.input.linear, y)
        self._norm(y, encoder.input.norm, a, tables.coded, encoder.input.scale, x, tables.codes)
        multiply(a, encoder.ahead, b, act=Act.LEAKY, slope=0.01)
        self._exchange(b, tables, 0, is_stored=False)
        multiply(b, encoder.behind, x, offset=2, added=x)
        self._exchange(b, tables, 0, is_stored=True)
        for index, layer in enumerate(encoder.layers):
            is_last = index + 1 == len(encoder.layers)
            self._run_layer(layer, x, tables, buffers, index, copy=b if is_last else None)
        self._exchange(b, tables, 1, is_stored=False)
        multiply(b, encoder.up, buffers.normed[:rows], places=tables.doubled, up=2)
        self._exchange(b, tables, 1, is_stored=True)
        x, y, a = (each[:rows] for each in (buffers.x, buffers.y, buffers.normed))
        multiply(a, encoder.up_input.linear, y)
        self._norm(y, encoder.up_input.norm, a, tables.rows, encoder.up_input.scale, x)
        for index, layer in enumerate(encoder.up_layers):
            self._run_layer(layer, x, tables, buffers, len(encoder.layers) + 2 * index, rate=2)
        self._norm(x, encoder.norm, a, tables.rows)
        multiply(a, encoder.out, buffers.mu)
        self._step.zero_()
        begin[(rows,)](
            buffers.mu, self.mel, self._inputs, tables.parts, tables.rows, rows,
            STREAM=MEL_NOISE, MELS=MELS, BLOCK=triton.next_power_of_2(MELS), num_warps=1,
        )  # fmt: skip

    def _run_layer(
        self,
        layer: _EncoderLayer,
        x: Tensor,
        tables: FlowTables,
        buffers: _EncoderBuffers,
        place: int,
        rate: int = 1,
        copy: Tensor | None = None,
    ) -> None:
        """Run a conformer layer over x, in place; `place` is that of its cache."""
        config, rows = self.config, x.shape[0]
        places, tiles = (tables.coded, tables.coded_tiles) if rate == 1 else (tables.rows, tables.tiles)
        normed, qkv, attended, inner, turned = (
            each[:rows]
            for each in (buffers.normed, buffers.qkv, buffers.attended, buffers.inner, buffers.turned)
        )
        heads, size = config.encoder_heads, config.encoder_size
        shape = {
            "RATE": rate,
            "HEADS": heads,
            "HEAD": size // heads,
            "BLOCK": TILE,
            "PRECISION": self._precision,
        }
        self._norm(x, layer.norms[0], normed, places)
        multiply(normed, layer.qkv, qkv)
        frequencies = min(64, size // 2)
        turn[(len(tiles), heads, size // 2 // frequencies)](
            qkv, turned, tables.parts, tiles, layer.positions, layer.position_bias, self._sinusoids,
            FREQUENCIES=frequencies, **shape,
        )  # fmt: skip
        attend_relative[(len(tiles), heads)](
            qkv, attended, turned, tables.parts, tiles, layer.content_bias, self._sinusoids, place,
            FREQUENCIES=min(64, size), **shape,
        )  # fmt: skip
        multiply(attended, layer.out, x, added=x)
        self._norm(x, layer.norms[1], normed, places)
        multiply(normed, layer.inner[0], inner, act=Act.SILU)
        multiply(inner, layer.inner[1], x, added=x, copy=copy)

    def _norm(
        self,
        x: Tensor,
        norm: nn.LayerNorm,
        y: Tensor,
        places: Tensor,
        scale: float = 1.0,
        wide: Tensor | None = None,
        codes: Tensor | None = None,
    ) -> None:
        layer_norm[(x.shape[0],)](
            x, y, wide, norm.weight, norm.bias, places, codes, norm.eps, scale,
            SIZE=x.shape[1], IS_WIDE=wide is not None, HAS_CODES=codes is not None,
        )  # fmt: skip

    def _exchange(self, x: Tensor, tables: FlowTables, which: int, *, is_stored: bool) -> None:
        exchange[(len(tables.parts),)](x, tables.parts, WHICH=which, IS_STORED=is_stored, SIZE=x.shape[1])

    # ---- the estimator

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
        config, x, first = self.config, buffers.x, 9 * index
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
        config, is_mish = self.config, vector is None
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

    # ---- buffers

    @property
    def _precision(self) -> str:
        return "ieee" if self._dtype is torch.float32 else "tf32"

    def _buffers(self, rows: int) -> _Buffers:
        config, arena, both, dtype = self.config, self._arena, 2 * rows, self._dtype
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

    def _encoder_buffers(self, rows: int, coded: int) -> _EncoderBuffers:
        config, arena, dtype, most = self.config, self._arena, self._dtype, max(rows, coded)
        arena.clear()
        return _EncoderBuffers(
            arena.take(most, config.encoder_size),
            arena.take(most, config.encoder_size),
            arena.take(most, config.encoder_size, dtype),
            arena.take(most, 3 * config.encoder_size, dtype),
            arena.take(most, config.encoder_size, dtype),
            arena.take(most, config.encoder_inner, dtype),
            arena.take(most, config.encoder_heads * config.encoder_size, dtype),
            arena.take(rows, MELS),
        )


@dataclass(frozen=True)
class _Buffers:
    """Of the estimator: x and y are float32; both inputs of convolutions are `columns`."""

    x: Tensor
    y: Tensor
    normed: Tensor
    qkv: Tensor
    attended: Tensor
    columns: list[Tensor]
    inner: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class _EncoderBuffers:
    """Of the token encoder: x and y are float32; `turned` is what `attention.turn` makes."""

    x: Tensor
    y: Tensor
    normed: Tensor
    qkv: Tensor
    attended: Tensor
    inner: Tensor
    turned: Tensor
    mu: Tensor


def _sinusoids(size: int, device: torch.device) -> Tensor:
    """(positions, size): sines of a position's angles, then cosines."""
    rates = torch.exp(torch.arange(0, size, 2, device=device) * -(math.log(10000.0) / size))
    angles = torch.arange(POSITIONS, device=device, dtype=torch.float32)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)
