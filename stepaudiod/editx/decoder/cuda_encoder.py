"""The flow decoder's token encoder on a GPU, for chunks of many streams whose rows lie behind each other.

    coded    ┊past┊─ A ─┊next┊past┊─ B ─┊next┊ …      frames at 25 Hz; three after each, looked at ahead
    rows     ┊past┊──── A ────┊past┊──── B ────┊ …    50 Hz

See `token_encoder` for the network, `cuda_estimator` for what follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stepaudiod.editx.decoder.arena import Arena
from stepaudiod.editx.decoder.attention import TILE, attend_relative, turn
from stepaudiod.editx.decoder.dit import MELS
from stepaudiod.editx.decoder.flow import Flow
from stepaudiod.editx.decoder.products import Act, Weights, multiply
from stepaudiod.editx.decoder.row_kernels import embed, exchange, layer_norm
from stepaudiod.editx.decoder.table import FlowTables
from stepaudiod.editx.decoder.token_encoder import ConformerLayer, InputLayer

POSITIONS = 8192
"""Mel frames of the longest utterance, its voice included: 164 s."""


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


class EncoderKernels:
    """The encoder as products read it, in `dtype`; buffers for up to `rows` rows are in the arena."""

    def __init__(self, flow: Flow, dtype: torch.dtype, rows: int, arena: Arena) -> None:
        encoder = flow.encoder
        self._config, self._dtype, self._arena = flow.config, dtype, arena
        self._embeddings = flow.input_embedding["embedding"].weight
        self._input, self._up_input = _Input.of(encoder.embed, dtype), _Input.of(encoder.up_embed, dtype)
        self._ahead = Weights.of(dtype, encoder.pre_lookahead_layer.conv1)
        self._behind = Weights.of(dtype, encoder.pre_lookahead_layer.conv2)
        self._up = Weights.of(dtype, encoder.up_layer.conv)
        self._layers = [_EncoderLayer.of(layer, dtype) for layer in encoder.encoders]
        self._up_layers = [_EncoderLayer.of(layer, dtype) for layer in encoder.up_encoders]
        self._after = encoder.after_norm
        self._out = Weights.of(dtype, flow.encoder_proj)
        self._sinusoids = _sinusoids(flow.config.encoder_size, flow.device).to(dtype)
        self._buffers(rows, rows)

    def encode(self, tables: FlowTables) -> Tensor:
        """Encode the next codes of all chunks: `(rows, 80)` float32, until the arena is cleared."""
        rows, coded = tables.rows.shape[0], tables.coded.shape[0]
        buffers = self._buffers(rows, coded)
        x, y, a, b = (each[:coded] for each in (buffers.x, buffers.y, buffers.normed, buffers.attended))
        embed[(coded,)](tables.codes, self._embeddings, a, HALF=a.shape[1] // 2)
        multiply(a, self._input.linear, y)
        self._norm(y, self._input.norm, a, tables.coded, self._input.scale, x, tables.codes)
        multiply(a, self._ahead, b, act=Act.LEAKY, slope=0.01)
        self._exchange(b, tables, 0, is_stored=False)
        multiply(b, self._behind, x, offset=2, added=x)
        self._exchange(b, tables, 0, is_stored=True)
        for index, layer in enumerate(self._layers):
            is_last = index + 1 == len(self._layers)
            self._run_layer(layer, x, tables, buffers, index, copy=b if is_last else None)
        self._exchange(b, tables, 1, is_stored=False)
        multiply(b, self._up, buffers.normed[:rows], places=tables.doubled, up=2)
        self._exchange(b, tables, 1, is_stored=True)
        x, y, a = (each[:rows] for each in (buffers.x, buffers.y, buffers.normed))
        multiply(a, self._up_input.linear, y)
        self._norm(y, self._up_input.norm, a, tables.rows, self._up_input.scale, x)
        for index, layer in enumerate(self._up_layers):
            self._run_layer(layer, x, tables, buffers, len(self._layers) + 2 * index, rate=2)
        self._norm(x, self._after, a, tables.rows)
        multiply(a, self._out, buffers.mu)
        return buffers.mu

    def _run_layer(
        self,
        layer: _EncoderLayer,
        x: Tensor,
        tables: FlowTables,
        buffers: _Buffers,
        place: int,
        rate: int = 1,
        copy: Tensor | None = None,
    ) -> None:
        """Run a conformer layer over x, in place; `place` is that of its cache."""
        config, rows = self._config, x.shape[0]
        places, tiles = (tables.coded, tables.coded_tiles) if rate == 1 else (tables.rows, tables.tiles)
        normed, qkv, attended, inner, turned = (
            each[:rows]
            for each in (buffers.normed, buffers.qkv, buffers.attended, buffers.inner, buffers.turned)
        )
        heads, size = config.encoder_heads, config.encoder_size
        precision = "ieee" if self._dtype is torch.float32 else "tf32"
        shape = {
            "RATE": rate,
            "HEADS": heads,
            "HEAD": size // heads,
            "BLOCK": TILE,
            "PRECISION": precision,
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

    def _buffers(self, rows: int, coded: int) -> _Buffers:
        config, arena, dtype, most = self._config, self._arena, self._dtype, max(rows, coded)
        arena.clear()
        return _Buffers(
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
    """Activations: x and y are float32; `turned` is what `attention.turn` makes."""

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
