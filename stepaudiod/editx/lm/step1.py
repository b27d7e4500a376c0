"""Step1: the decoder-only language model that reads and writes audio codes among text.

- no rotary or learned positions: a key's distance lowers its score by slope * sqrt(distance), a variant of
  ALiBi;
- the bias depends on positions alone, so it is computed once per step for all layers, in float32;
- 48 query heads share 4 key/value heads: a group's queries are stacked as rows, and nothing is repeated;
- the cache of keys and values is allocated once, and the rows of a batch have different lengths;
- a long prompt is read in blocks, so that scores never need the square of its length;
- the output layer is never tied to the embedding, whatever a configuration says.

Independent of sampling and of text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.weights import embedding
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
    """Keys and values of every layer for a few sequences, allocated once.

    Both are `(layers, rows, groups, length, head)`; no sequence can grow past the length.
    """

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Step:
    """The positions of one call, computed once for all layers.

    Args:
        first_row: cache row of the batch's first sequence; the others follow it.
        rows: `(batch, 1)`, 0 to batch - 1.
        positions: `(batch, t)` of the new tokens.
        bias: `(batch, groups, heads per group * t, keys)` float32, -inf for later keys.
    """

    first_row: int
    rows: Tensor
    positions: Tensor
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

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, step: Step) -> Tensor:
        """Attend from `(batch, t, hidden)` to this layer's keys and values, and write its own to them.

        These are `(rows, groups, length, head)`.
        """
        batch, t, _ = x.shape
        new_keys = self.k_proj(x).view(batch, t, self.groups, self.head_size)
        new_values = self.v_proj(x).view(batch, t, self.groups, self.head_size)
        keys, values = (x[step.first_row : step.first_row + batch] for x in (keys, values))
        keys[step.rows, :, step.positions] = new_keys
        values[step.rows, :, step.positions] = new_values
        seen = step.bias.shape[-1]
        keys, values = keys[:, :, :seen], values[:, :, :seen]  # (batch, groups, seen, head)
        # head i uses group i // (heads / groups), so a group's heads and positions become its rows
        q = self.q_proj(x).view(batch, t, self.groups, -1, self.head_size)
        q = q.permute(0, 2, 3, 1, 4).flatten(2, 3)  # (batch, groups, heads per group * t, head)
        scores = q.float() * self.head_size**-0.5 @ keys.float().transpose(-1, -2)
        scores += step.bias  # in place: with a long prompt this is the largest of all intermediate results
        attended = (scores.softmax(dim=-1) @ values.float()).to(x.dtype)
        attended = attended.unflatten(2, (-1, t)).permute(0, 3, 1, 2, 4).flatten(2)  # (batch, t, hidden)
        projected: Tensor = self.o_proj(attended)
        return projected


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

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, step: Step) -> Tensor:
        """Run over `(batch, t, hidden)`; see `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), keys, values, step)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class Step1Model(nn.Module):
    def __init__(self, config: Step1Config) -> None:
        super().__init__()
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, ids: Tensor) -> Tensor:
        """Look up ids in the table, which may be on the host."""
        table, home = self.embed_tokens.weight, self.norm.weight
        return F.embedding(ids.to(table.device), table).to(home.device, home.dtype)

    def forward(self, ids: Tensor, cache: KVCache, step: Step) -> Tensor:
        """Run over ids `(batch, t)` int64; returns the normalised hidden states `(batch, t, hidden)`."""
        x = self.embed(ids)
        for index, layer in enumerate(self.layers):
            x = layer(x, cache.keys[index], cache.values[index], step)
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
        self._audio_rows: tuple[Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.norm.weight.dtype

    def new_cache(self, rows: int, length: int) -> KVCache:
        config = self.config
        shape = (config.num_hidden_layers, rows, config.num_attention_groups, length, config.head_size)
        return KVCache(*(torch.zeros(shape, device=self.device, dtype=self.dtype) for _ in range(2)))

    def prefill(
        self, ids: list[int], cache: KVCache, row: int = 0, start: int = 0, block: int = PROMPT_BLOCK
    ) -> Tensor:
        """Read a prompt into one row of the cache from position `start`, a block at a time.

        Returns:
            `(t, hidden)`: the hidden states of the last block's positions.
        """
        x = torch.empty(0)
        for first in range(0, len(ids), block):
            part = torch.tensor([ids[first : first + block]])
            end = start + first + part.shape[1]
            at = torch.arange(start + first, end, device=self.device)
            x = self.model(part, cache, self.step(at[None], end, row))[0]
        return x

    def decode(self, ids: Tensor, positions: Tensor, cache: KVCache, seen: int, first_row: int = 0) -> Tensor:
        """Run one step for several sequences at once; the tokens' keys and values are added to the cache.

        Args:
            ids: `(batch,)` the last token of each.
            positions: `(batch,)` of those tokens.
            cache: the first sequence is in `first_row`, and the others follow it.
            seen: number of keys to attend to: at least the largest position plus one.
            first_row: see `cache`.

        Returns:
            `(batch, hidden)`.
        """
        hidden: Tensor = self.model(ids[:, None], cache, self.step(positions[:, None], seen, first_row))[:, 0]
        return hidden

    def step(self, positions: Tensor, seen: int, first_row: int = 0) -> Step:
        """Prepare a call for positions `(batch, t)` that attends to `seen` keys."""
        device = positions.device
        distance = (positions[:, :, None] - torch.arange(seen, device=device)).float()  # (batch, t, keys)
        penalty = distance.clamp_min(0.0).sqrt().masked_fill(distance < 0, math.inf)
        self._slopes = self._slopes.to(device)
        slopes = self._slopes.view(1, self.config.num_attention_groups, -1, 1, 1)
        bias = -slopes * penalty[:, None, None]  # (batch, groups, heads per group, t, keys)
        rows = torch.arange(positions.shape[0], device=device)[:, None]
        return Step(first_row, rows, positions, bias.flatten(2, 3))

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """Score all codes, and then the end: `(..., hidden)` to `(..., 5121)` float32.

        Only a fifteenth of the output layer is read.
        """
        codes, end = self._audio_head(hidden)
        return torch.cat((F.linear(hidden, codes), F.linear(hidden, end)), dim=-1).float()

    def _audio_head(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The output layer's rows of all codes, and of the end; copied once if it is on the host."""
        weight = self.lm_head.weight
        parts = weight[AUDIO_BASE : AUDIO_BASE + AUDIO_CODES], weight[END_OF_TURN : END_OF_TURN + 1]
        if weight.device == like.device:
            return parts
        if self._audio_rows is None:
            self._audio_rows = parts[0].to(like), parts[1].to(like)
        return self._audio_rows
