"""The flow decoder's estimator: a diffusion transformer that tells which way a noisy mel should move.

Its layer norms are steered by the time alone. A solve visits the same few times again and again, so
`Modulation` is made once a time and kept. The order within a block is attention, convolution, feed-forward.

Chunks: convolutions are causal and keep two columns; attention keeps keys and values of the prompt and of a
stretch of the newest frames. Attention has no positions, so the order of the cached keys doesn't matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MELS = 80
TIME_FEATURES = 256
KERNEL = 3


@dataclass(frozen=True)
class Modulation:
    """Everything that depends on the time only: for each block nine vectors, and two for the output.

    Args:
        blocks: `(9, hidden)` each: shift, scale, gate for attention, feed-forward and convolution.
        output: `(2, hidden)`: shift, scale.
    """

    blocks: list[Tensor]
    output: Tensor


@dataclass
class EstimatorState:
    """What earlier chunks left behind, for one time.

    Args:
        columns: for each block the two last columns of both convolutions, `(2, hidden, 2)`.
        caches: for each block keys and values, `(2, heads, frames, head)`, the newest first.
    """

    columns: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    caches: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """How many frames the caches hold."""
        return self.caches[0][0].shape[2] if self.caches else 0

    def forget(self, newest: int, oldest: int) -> None:
        """Keep only the `newest` frames and the `oldest`, which are the prompt."""
        if self.frames <= newest + oldest:
            return
        for index, pair in self.caches.items():
            k, v = (torch.cat((x[:, :, :newest], x[:, :, x.shape[2] - oldest :]), dim=2) for x in pair)
            self.caches[index] = k, v


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class BlockAttention(nn.Module):
    """Full attention without positions; queries and keys are normed a head."""

    def __init__(self, size: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(size, heads * head_size)
        self.to_k = nn.Linear(size, heads * head_size)
        self.to_v = nn.Linear(size, heads * head_size)
        self.q_norm = nn.LayerNorm(head_size)
        self.k_norm = nn.LayerNorm(head_size)
        self.proj = nn.Linear(heads * head_size, size)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from `(batch, frames, size)` to itself and the past; gives the result and the cache."""
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, frames, head)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if past is not None:
            k, v = torch.cat((k, past[0]), dim=2), torch.cat((v, past[1]), dim=2)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).flatten(2)), (k, v)


class BlockConvolution(nn.Module):
    """Two causal convolutions around a norm and Mish; names follow the checkpoint's positions."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {"1": nn.Conv1d(size, size, KERNEL), "3": nn.LayerNorm(size), "6": nn.Conv1d(size, size, KERNEL)}
        )

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over `(batch, frames, size)`; gives the result and both convolutions' last columns."""
        x, first = self._causal("1", x.transpose(1, 2), None if past is None else past[0])
        x = F.mish(self.block["3"](x.transpose(1, 2)))
        x, second = self._causal("6", x.transpose(1, 2), None if past is None else past[1])
        return x.transpose(1, 2), (first, second)

    def _causal(self, name: str, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        before = x.new_zeros(*x.shape[:2], KERNEL - 1) if past is None else past
        x = torch.cat((before, x), dim=2)
        return self.block[name](x), x[..., 1 - KERNEL :]


class DiTBlock(nn.Module):
    """Attention, convolution, feed-forward, each steered by the time."""

    def __init__(self, size: int, heads: int, head_size: int, inner: int) -> None:
        super().__init__()
        self.attn = BlockAttention(size, heads, head_size)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(size, inner), "fc2": nn.Linear(inner, size)})
        self.conv = BlockConvolution(size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 9 * size))

    def forward(self, x: Tensor, vectors: Tensor, state: EstimatorState | None, index: int) -> Tensor:
        """Run over `(batch, frames, size)` with nine `(9, size)` vectors; `state` grows if given."""
        a_shift, a_scale, a_gate, m_shift, m_scale, m_gate, c_shift, c_scale, c_gate = vectors
        past = None if state is None else state.caches.get(index)
        y, cache = self.attn(_modulate(x, a_shift, a_scale), past)
        x = x + a_gate * y
        past = None if state is None else state.columns.get(index)
        y, columns = self.conv(_modulate(x, c_shift, c_scale), past)
        x = x + c_gate * y
        if state is not None:
            state.caches[index], state.columns[index] = cache, columns
        y = F.gelu(self.mlp["fc1"](_modulate(x, m_shift, m_scale)), approximate="tanh")
        y = self.mlp["fc2"](y)
        mixed: Tensor = x + m_gate * y
        return mixed


class FinalLayer(nn.Module):
    """The last norm, steered by the time, and the way back to mels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 2 * size))
        self.linear = nn.Linear(size, MELS)


class DiT(nn.Module):
    """The whole estimator; parameter names are the checkpoint's."""

    def __init__(self, size: int, heads: int, head_size: int, inner: int, depth: int) -> None:
        super().__init__()
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(TIME_FEATURES, size), nn.SiLU(), nn.Linear(size, size))}
        )
        self.in_proj = nn.Linear(4 * MELS, size)
        self.blocks = nn.ModuleList([DiTBlock(size, heads, head_size, inner) for _ in range(depth)])
        self.final_layer = FinalLayer(size)

    def modulation(self, time: Tensor) -> Modulation:
        """Make everything that depends on a time `()` in 0..1 only."""
        half = TIME_FEATURES // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=time.device) / half)
        angles = time.float() * 1000.0 * rates
        features = torch.cat((angles.cos(), angles.sin())).to(self.in_proj.weight.dtype)
        # two rows, as guidance has, and one of them kept: a lone row takes another kernel with other last
        # bits
        embedded = self.t_embedder["mlp"](features.expand(2, -1))
        layers = [*(block.get_submodule("adaLN_modulation") for block in self.blocks)]
        blocks = [layer(embedded)[0].view(9, -1) for layer in layers]
        return Modulation(blocks, self.final_layer.adaLN_modulation(embedded)[0].view(2, -1))

    def forward(self, x: Tensor, modulation: Modulation, state: EstimatorState | None = None) -> Tensor:
        """Estimate a velocity.

        Args:
            x: `(batch, frames, 320)`: noisy mel, conditioning, speaker, prompt mel.
            modulation: of the time.
            state: of earlier chunks at this time; grows.

        Returns:
            `(batch, frames, 80)`.

        Source: DiT (arXiv 2212.09748), with a convolution in each block.
        """
        x = self.in_proj(x)
        for index, block in enumerate(self.blocks):
            x = block(x, modulation.blocks[index], state, index)
        velocity: Tensor = self.final_layer.linear(_modulate(x, modulation.output[0], modulation.output[1]))
        return velocity
