"""Step1: the decoder-only language model that reads and writes audio codes among text.

- no rotary or learned positions: a key's distance lowers its score by slope * sqrt(distance), a variant of
  ALiBi;
- the bias depends on positions alone, so it is computed once per step for all layers, in float32;
- 48 query heads share 4 key/value heads: a group's queries are stacked as rows, and nothing is repeated;
- tokens of several sequences are run at once, as rows, and attend to one cache of keys and values;
- a long prompt is read in blocks, so that scores never need the square of its length;
- the output layer is never tied to the embedding, whatever a configuration says.

Independent of sampling and of text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.codes import AUDIO_BASE, AUDIO_CODES, END_OF_TURN
from stepaudiod.editx.lm.config import Step1Config
from stepaudiod.editx.lm.linear import Linear

PROMPT_BLOCK = 256
"""Prompt positions per block: limits the scores to heads * 256 * length float32."""


def alibi_slopes(heads: int) -> Tensor:
    """Each head's slope: `(heads,)` float32.

    Source: ALiBi (arXiv 2108.12409), with its rule for head counts that are no power of two.
    """
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / whole) for i in range(whole)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / whole) for i in range(heads - whole)]
    return torch.tensor(slopes, device="cpu")


@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer: both `(layers, groups, positions, head)`.

    Which positions belong to which sequence is said by each `Piece`.
    """

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one sequence, in a call that may have several.

    Args:
        rows: of the call's tokens.
        places: `(seen,)` int64, where the cache has the sequence's positions up to the last of these tokens.
        bias: `(groups, heads per group * t, seen)` float32, -inf for later keys.
    """

    rows: slice
    places: Tensor
    bias: Tensor


class RMSNorm(nn.Module):
    """Root mean square norm; the variance is taken in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:  # in one kernel; on the CPU the rounding is the reference's
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        root = (x.float().square().mean(-1, keepdim=True) + self.eps).rsqrt()
        normed: Tensor = x * root.to(x.dtype) * self.weight
        return normed


class Attention(nn.Module):
    """Grouped attention over the cache."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        size, kv_size = config.hidden_size, config.num_attention_groups * config.head_size
        self.groups, self.head_size = config.num_attention_groups, config.head_size
        self.q_proj = Linear(size, size)
        self.k_proj = Linear(size, kv_size)
        self.v_proj = Linear(size, kv_size)
        self.o_proj = Linear(size, size)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """Attend from `(n, hidden)` to this layer's keys and values, and write its own to them.

        These are `(groups, positions, head)`. Rows that belong to no piece give zeros.
        """
        q, attended = self.q_proj(x), torch.zeros_like(x)
        new_keys, new_values = (
            proj(x).view(-1, self.groups, self.head_size).transpose(0, 1)  # (groups, n, head)
            for proj in (self.k_proj, self.v_proj)
        )
        for piece in pieces:
            t = piece.rows.stop - piece.rows.start
            keys[:, piece.places[-t:]] = new_keys[:, piece.rows]
            values[:, piece.places[-t:]] = new_values[:, piece.rows]
            attended[piece.rows] = self._attend(q[piece.rows], keys, values, piece)
        projected: Tensor = self.o_proj(attended)
        return projected

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, piece: Piece) -> Tensor:
        """Attend from one piece's queries, `(t, hidden)`."""
        t = q.shape[0]
        # head i uses group i // (heads / groups), so a group's heads and positions become its rows
        stacked = q.view(t, self.groups, -1, self.head_size).permute(1, 2, 0, 3).flatten(1, 2)
        seen_keys, seen_values = (x[:, piece.places].float()[None] for x in (keys, values))
        made = F.scaled_dot_product_attention(
            stacked.float()[None], seen_keys, seen_values, attn_mask=piece.bias[None]
        )  # (1, groups, heads per group * t, head)
        attended = made.view(self.groups, -1, t, self.head_size).permute(2, 0, 1, 3).flatten(1)
        return attended.to(q.dtype)  # (t, hidden)


class MLP(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(..., hidden)`."""
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class DecoderLayer(nn.Module):
    """Attention, then the feed-forward block, each after a norm and beside a residual."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """Run over `(n, hidden)`; see `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), keys, values, pieces)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class Step1Model(nn.Module):
    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, ids: Tensor) -> Tensor:
        """Look up ids in the table, which may be on the host."""
        table, home = self.embed_tokens.weight, self.norm.weight
        return F.embedding(ids.to(table.device), table).to(home.device, home.dtype)

    def forward(self, ids: Tensor, cache: KVCache, pieces: Sequence[Piece]) -> Tensor:
        """Run over ids `(n,)` int64; returns the normalised hidden states `(n, hidden)`."""
        x = self.embed(ids)
        for index, layer in enumerate(self.layers):
            x = layer(x, cache.keys[index], cache.values[index], pieces)
        hidden: Tensor = self.norm(x)
        return hidden


class Step1ForCausalLM(nn.Module):
    """The model and its output layer; parameter names are the checkpoint's."""

    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.config = config
        self.model = Step1Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._slopes = alibi_slopes(config.num_attention_heads)

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.norm.weight.dtype

    def new_cache(self, positions: int) -> KVCache:
        config = self.config
        shape = (config.num_hidden_layers, config.num_attention_groups, positions, config.head_size)
        return KVCache(*(torch.zeros(shape, device=self.device, dtype=self.dtype) for _ in range(2)))

    def prefill(
        self,
        ids: Sequence[int],
        cache: KVCache,
        places: Tensor | None = None,
        start: int = 0,
        block: int = PROMPT_BLOCK,
    ) -> Tensor:
        """Read ids from position `start` of a sequence, a block at a time.

        Args:
            ids: from `start` on.
            cache: written to.
            places: `(length,)` int64, where the cache has the sequence's positions; None: it has no other.
            start: number of positions that were read before.
            block: see `PROMPT_BLOCK`.

        Returns:
            `(t, hidden)`: the hidden states of the last block's positions.
        """
        if places is None:
            places = torch.arange(cache.keys.shape[2], device=self.device)
        x = torch.empty(0)
        for first in range(0, len(ids), block):
            part = torch.tensor(ids[first : first + block])
            piece = self.piece(slice(0, len(part)), start + first, places)
            x = self.model(part, cache, [piece])
        return x

    def piece(self, rows: slice, first: int, places: Tensor) -> Piece:
        """Prepare tokens of a sequence whose first is at position `first`; `places` as of `prefill`."""
        device, seen = places.device, first + rows.stop - rows.start
        positions = torch.arange(first, seen, device=device)
        distance = (positions[:, None] - torch.arange(seen, device=device)).float()  # (t, seen)
        penalty = distance.clamp_min(0.0).sqrt().masked_fill(distance < 0, math.inf)
        self._slopes = self._slopes.to(device)
        slopes = self._slopes.view(self.config.num_attention_groups, -1, 1, 1)
        bias = -slopes * penalty  # (groups, heads per group, t, seen)
        return Piece(rows, places[:seen], bias.flatten(1, 2))

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """Score all codes, and then the end: `(..., hidden)` to `(..., 5121)` float32.

        Only a fifteenth of the output layer is read, where it is: on the host, if the model is on a GPU.
        """
        weight = self.lm_head.weight
        codes, end = weight[AUDIO_BASE : AUDIO_BASE + AUDIO_CODES], weight[END_OF_TURN : END_OF_TURN + 1]
        x = hidden.to(weight.device)
        return torch.cat((F.linear(x, codes), F.linear(x, end)), dim=-1).float()
