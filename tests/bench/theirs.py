"""The reference's way to decode, written for comparison: what `model-spec` says its code does, no more.

A bias of all positions by all positions in every layer for every token, keys repeated for every head and
joined anew at each step, the whole vocabulary scored, the id read by the host each time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.lm.step1 import DecoderLayer, Step1ForCausalLM, alibi_slopes
from tests.parity.language import logits


class TheirDecoder:
    """Greedy decoding, one token at a time.

    Args:
        model: its weights are used, and none of its code but norms and matrices.
    """

    def __init__(self, model: Step1ForCausalLM) -> None:
        self._model = model
        self._heads, self._groups = model.config.num_attention_heads, model.config.num_attention_groups
        self._slopes = alibi_slopes(self._heads).to(model.device)
        self._past: list[tuple[Tensor, Tensor]] = []

    def feed(self, ids: list[int]) -> Tensor:
        """Feed ids after the previous ones; returns the logits of the last one."""
        model = self._model
        x = model.model.embed(torch.tensor([ids]))
        for index, layer in enumerate(model.model.layers):
            assert isinstance(layer, DecoderLayer)
            x = x + self._attend(layer, layer.input_layernorm(x), index)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return logits(model, model.model.norm(x))[0, -1]

    def _attend(self, layer: DecoderLayer, x: Tensor, index: int) -> Tensor:
        attention = layer.self_attn
        q, k, v = (
            linear(x).unflatten(-1, (-1, attention.head_size)).transpose(1, 2)
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if index < len(self._past):
            k, v = (torch.cat(pair, dim=2) for pair in zip(self._past[index], (k, v), strict=True))
            self._past[index] = k, v
        else:
            self._past.append((k, v))
        k, v = (y.repeat_interleave(self._heads // self._groups, dim=1) for y in (k, v))
        bias = self._bias(k.shape[2]).to(x.dtype)[:, -q.shape[2] :]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        projected: Tensor = attention.o_proj(attended.transpose(1, 2).flatten(2))
        return projected

    def _bias(self, length: int) -> Tensor:
        at = torch.arange(length, device=self._slopes.device)
        distance = (at[:, None] - at).float()
        bias = -self._slopes[:, None, None] * distance.clamp_min(0).sqrt()
        return bias.masked_fill(distance < 0, -torch.inf)

    def decode(self, prompt: list[int], tokens: int) -> list[int]:
        """Decode the most likely ids."""
        ids = [int(self.feed(prompt).argmax())]
        while len(ids) < tokens:
            ids.append(int(self.feed(ids[-1:]).argmax()))
        return ids
