"""The flow decoder's token encoder: 25 Hz code embeddings in, 50 Hz conditioning out.

    embed ─ lookahead ─ conformer layers ─ each frame twice, convolution ─ embed ─ conformer layers ─ norm

It runs over chunks, with a state of earlier ones: two or four columns of each causal convolution, and keys
and values of each layer. The convolution that looks ahead needs three frames beyond the chunk; at the end of
an utterance they are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.decoder.config import LOOKAHEAD

UP = 2


@dataclass
class EncoderState:
    """The state of earlier chunks.

    Args:
        ahead: `(1, size, 2)` of the lookahead's second convolution; None before the first chunk.
        up: `(1, size, 4)` of the convolution after doubling.
        caches: each layer's keys and values, `(2, 1, heads, frames so far, head)`.
        prompt: the keys and values before those, in the same form; shared, so never written to.
    """

    ahead: Tensor | None = None
    up: Tensor | None = None
    caches: dict[int, Tensor] = field(default_factory=dict)
    prompt: Mapping[int, Tensor] = field(default_factory=dict)

    def after_prompt(self) -> EncoderState:
        """A new state that shares everything read so far."""
        return EncoderState(self.ahead, self.up, {}, self.caches)

    def fork(self) -> EncoderState:
        """An equal state that grows by itself."""
        return EncoderState(self.ahead, self.up, dict(self.caches), self.prompt)

    def past(self, layer: int) -> tuple[Tensor, ...]:
        """A layer's keys and values, the oldest first."""
        return tuple(part[layer] for part in (self.prompt, self.caches) if layer in part)

    def append(self, layer: int, new: Tensor) -> None:
        before = self.caches.get(layer)
        self.caches[layer] = new if before is None else torch.cat((before, new), dim=3)


class InputLayer(nn.Module):
    """Linear, norm, and the scale that belongs to sinusoidal positions."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size, eps=1e-5))
        self.scale = math.sqrt(size)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(batch, frames, size)`."""
        scaled: Tensor = self.out(x) * self.scale
        return scaled


class Lookahead(nn.Module):
    """Mixes three frames of future into each frame, then two of the past."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(size, size, LOOKAHEAD + 1)
        self.conv2 = nn.Conv1d(size, size, 3)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Turn `(batch, n + 3, size)` into `(batch, n, size)`, and return the two columns to keep."""
        y = F.leaky_relu(self.conv1(x.transpose(1, 2)))  # (batch, size, n)
        y = torch.cat((y.new_zeros(*y.shape[:2], 2) if past is None else past, y), dim=2)
        return self.conv2(y).transpose(1, 2).contiguous() + x[:, :-LOOKAHEAD], y[..., -2:].clone()


class UpLayer(nn.Module):
    """Each frame twice, then a causal convolution."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(size, size, 2 * UP + 1)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Turn `(batch, n, size)` into `(batch, 2n, size)`, and return the four columns to keep."""
        y = x.transpose(1, 2).repeat_interleave(UP, dim=2)  # (batch, size, 2n)
        y = torch.cat((y.new_zeros(*y.shape[:2], 2 * UP) if past is None else past, y), dim=2)
        return self.conv(y).transpose(1, 2).contiguous(), y[..., -2 * UP :].clone()


class RelativeAttention(nn.Module):
    """Attention with Transformer-XL's relative positions."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, size // heads
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.linear_pos = nn.Linear(size, size, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, self.head_size))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, self.head_size))

    def forward(self, x: Tensor, positions: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Attend from `(batch, n, size)` to the past and itself.

        Args:
            x: the new frames, the latest of all.
            positions: `(2 * keys - 1, size)`, relative positions from keys - 1 down.
            past: earlier keys and values, `(2, batch, heads, keys, head)` each.

        Returns:
            `(batch, n, size)`, and the new keys and values.
        """
        q = self._heads(self.linear_q(x))
        k, v = (self._heads(linear(x)).transpose(1, 2) for linear in (self.linear_k, self.linear_v))
        new = torch.stack((k, v))
        k, v = torch.cat((*past, new), dim=3) if past else new
        p = self._heads(self.linear_pos(positions)).transpose(0, 1)  # (heads, 2 * keys - 1, head)
        by_content = (q + self.pos_bias_u).transpose(1, 2) @ k.transpose(-2, -1)
        by_position = _shift((q + self.pos_bias_v).transpose(1, 2) @ p.transpose(-2, -1), k.shape[2])
        # Written out rather than fused, to keep the last bits: the reference's float32 phases magnify them.
        weights = ((by_content + by_position) / math.sqrt(self.head_size)).softmax(dim=-1)
        attended = (weights @ v).transpose(1, 2).flatten(2)  # (batch, n, size)
        return self.linear_out(attended), new

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.head_size)  # (..., n, heads, head)


def _shift(scores: Tensor, keys: int) -> Tensor:
    """Turn columns by relative position into columns by key: (batch, heads, n, 2 * keys - 1) -> (…, keys).

    Query i is at position keys - n + i, so its first key is column n - 1 - i.
    """
    n = scores.shape[2]
    batch, heads, _, width = scores.shape
    padded = F.pad(scores, (1, 0)).reshape(batch, heads, width + 1, n)
    return padded[:, :, 1:].reshape(batch, heads, n, width)[..., :keys]


class FeedForward(nn.Module):
    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(size, inner)
        self.w_2 = nn.Linear(inner, size)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(..., size)`."""
        y: Tensor = self.w_2(F.silu(self.w_1(x)))
        return y


class ConformerLayer(nn.Module):
    """Pre-norm attention and feed-forward; no convolution, in spite of the name."""

    def __init__(self, size: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(size, heads)
        self.feed_forward = FeedForward(size, inner)
        self.norm_mha = nn.LayerNorm(size, eps=1e-12)
        self.norm_ff = nn.LayerNorm(size, eps=1e-12)

    def forward(self, x: Tensor, positions: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Run over `(batch, n, size)`; see `RelativeAttention`."""
        y, cache = self.self_attn(self.norm_mha(x), positions, past)
        x = x + y
        return x + self.feed_forward(self.norm_ff(x)), cache


class TokenEncoder(nn.Module):
    """The encoder; parameter names are the checkpoint's without their `encoder.` prefix."""

    def __init__(self, size: int, heads: int, inner: int, layers: int, up_layers: int) -> None:
        super().__init__()
        self.size = size
        self.embed = InputLayer(size)
        self.pre_lookahead_layer = Lookahead(size)
        self.encoders = nn.ModuleList([ConformerLayer(size, heads, inner) for _ in range(layers)])
        self.up_layer = UpLayer(size)
        self.up_embed = InputLayer(size)
        self.up_encoders = nn.ModuleList([ConformerLayer(size, heads, inner) for _ in range(up_layers)])
        self.after_norm = nn.LayerNorm(size, eps=1e-5)

    def encode_chunk(self, x: Tensor, state: EncoderState, is_last: bool) -> Tensor:
        """Encode the next frames; the state grows by n frames.

        The input is `(1, n + 3, size)`, of which the next chunk repeats the last three; `(1, n, size)` if
        last.

        Returns:
            `(1, 2n, size)`.

        Source: CosyVoice 2 (arXiv 2412.10117), its upsampling conformer without chunk masks.
        """
        x = self.embed(x)
        if is_last:
            x = F.pad(x, (0, 0, 0, LOOKAHEAD))
        x, state.ahead = self.pre_lookahead_layer(x, state.ahead)
        x = self._run(self.encoders, x, state, 0)
        x, state.up = self.up_layer(x, state.up)
        x = self._run(self.up_encoders, self.up_embed(x), state, len(self.encoders))
        normed: Tensor = self.after_norm(x)
        return normed

    def _run(self, layers: nn.ModuleList, x: Tensor, state: EncoderState, first: int) -> Tensor:
        keys = x.shape[1] + sum(part.shape[3] for part in state.past(first))
        positions = _relative_positions(keys, self.size, x)
        for index, layer in enumerate(layers, first):
            x, new = layer(x, positions, state.past(index))
            state.append(index, new)
        return x


def _relative_positions(keys: int, size: int, like: Tensor) -> Tensor:
    """(2 * keys - 1, size): sines and cosines in turn, of positions keys - 1 down to 1 - keys."""
    position = torch.arange(keys - 1, -keys, -1, device=like.device, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, size, 2, device=like.device) * -(math.log(10000.0) / size))
    angles = position * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).to(like.dtype)
