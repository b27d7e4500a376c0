"""The flow decoder's estimator: a diffusion transformer that tells which way a noisy mel should move.

Its layer norms are steered by the time alone. A solve visits the same few times again and again, so
`Modulation` is made once a time and kept. The order within a block is attention, convolution, feed-forward.

Chunks: convolutions are causal and keep two columns; attention keeps keys and values of the prompt and of a
stretch of the newest frames. Attention has no positions, so the order of the cached keys doesn't matter, and
those of the prompt can lie elsewhere, shared by all streams of a voice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        blocks: `(blocks, 9, hidden)`: shift, scale, gate for attention, feed-forward and convolution.
        output: `(2, hidden)`: shift, scale.
    """

    blocks: Tensor
    output: Tensor


@dataclass(frozen=True)
class KVState:
    """What earlier chunks left behind, for one time.

    Args:
        caches: `(blocks, 2, batch, heads, frames, head)` keys and values, the newest first.
        columns: `(blocks, 2, batch, hidden, 2)`, the two last columns of both convolutions.
        prompt: keys and values of the prompt in the same form; others may hold them too, so they are never
            written to.
    """

    caches: Tensor
    columns: Tensor
    prompt: Tensor | None = None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Its own keys and values, then the prompt's."""
        return (self.caches,) if self.prompt is None else (self.caches, self.prompt)

    @property
    def frames(self) -> int:
        """How many frames it holds, the prompt's too."""
        return sum(part.shape[4] for part in self.parts)

    def as_prompt(self) -> KVState:
        """Call all that was seen so far the prompt."""
        whole = self.parts[0] if self.prompt is None else torch.cat(self.parts, dim=4)
        return KVState(whole[..., :0, :].clone(), self.columns, whole)

    def followed_by(self, new: KVState, newest: int) -> KVState:
        """Give the past after a chunk: what it leaves behind in front, and at most `newest` frames of it all.

        What is left out is let go of: nothing here is a view of something larger.
        """
        frames = new.caches.shape[4]
        if frames >= newest:
            kept = new.caches if frames == newest else new.caches[..., :newest, :].clone()
        else:
            kept = torch.cat((new.caches, self.caches[..., : newest - frames, :]), dim=4)
        return KVState(kept, new.columns, self.prompt)


@dataclass(frozen=True)
class Padding:
    """Where a chunk that was filled up to a round size, and its past, are real.

    Args:
        is_key: `(batch, 1, 1, frames + past)`, True for those that are.
        last: `(batch, 2)`, where the last two real columns stand in a convolution's input, which has two of
            the past in front.
    """

    is_key: Tensor
    last: Tensor


@dataclass
class EstimatorState:
    """The past of one time.

    Args:
        past: of the chunks so far; None before the first.
        newest: how many frames it keeps beside the prompt; None keeps all.
    """

    past: KVState | None = None
    newest: int | None = None

    @property
    def frames(self) -> int:
        """How many frames it holds."""
        return 0 if self.past is None else self.past.frames

    def append(self, new: KVState) -> None:
        """Take in what a chunk leaves behind."""
        newest = self.newest if self.newest is not None else self.frames + new.frames
        past = KVState(new.caches[..., :0, :], new.columns) if self.past is None else self.past
        self.past = past.followed_by(new, newest)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class BlockAttention(nn.Module):
    """Full attention without positions; queries and keys are normed a head."""

    def __init__(self, size: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.to_q = nn.Linear(size, heads * head_size)
        self.to_k = nn.Linear(size, heads * head_size)
        self.to_v = nn.Linear(size, heads * head_size)
        self.q_norm = nn.LayerNorm(head_size)
        self.k_norm = nn.LayerNorm(head_size)
        self.proj = nn.Linear(heads * head_size, size)

    def forward(self, x: Tensor, past: tuple[Tensor, ...], padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Attend from `(batch, frames, size)` to itself and the past; gives its keys and values too."""
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, frames, head)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        new = torch.stack((k, v))
        if past:
            k, v = torch.cat((new, *(part.to(new) for part in past)), dim=3)
        mask = None if padding is None else padding.is_key
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(attended.transpose(1, 2).flatten(2)), new


class BlockConvolution(nn.Module):
    """Two causal convolutions around a norm and Mish; names follow the checkpoint's positions."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {"1": nn.Conv1d(size, size, KERNEL), "3": nn.LayerNorm(size), "6": nn.Conv1d(size, size, KERNEL)}
        )

    def forward(self, x: Tensor, past: Tensor | None, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Run over `(batch, frames, size)`; gives both convolutions' last columns too."""
        x, first = self._causal("1", x.transpose(1, 2), None if past is None else past[0], padding)
        x = F.mish(self.block["3"](x.transpose(1, 2)))
        x, second = self._causal("6", x.transpose(1, 2), None if past is None else past[1], padding)
        return x.transpose(1, 2), torch.stack((first, second))

    def _causal(
        self, name: str, x: Tensor, past: Tensor | None, padding: Padding | None
    ) -> tuple[Tensor, Tensor]:
        before = x.new_zeros(*x.shape[:2], KERNEL - 1) if past is None else past.to(x)
        x = torch.cat((before, x), dim=2)
        if padding is None:
            return self.block[name](x), x[..., 1 - KERNEL :]
        return self.block[name](x), x.gather(2, padding.last[:, None].expand(-1, x.shape[1], -1))


class DiTBlock(nn.Module):
    """Attention, convolution, feed-forward, each steered by the time."""

    def __init__(self, size: int, heads: int, head_size: int, inner: int) -> None:
        super().__init__()
        self.size = size
        self.attn = BlockAttention(size, heads, head_size)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(size, inner), "fc2": nn.Linear(inner, size)})
        self.conv = BlockConvolution(size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 9 * size))

    def forward(
        self,
        x: Tensor,
        vectors: Tensor,
        caches: tuple[Tensor, ...],
        columns: Tensor | None,
        padding: Padding | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run over `(batch, frames, size)` with nine `(9, size)` vectors.

        Args:
            x: the frames.
            vectors: shift, scale and gate, three times.
            caches: keys and values of earlier chunks; see `Past`.
            columns: theirs.
            padding: what of it all is real; None for everything.

        Returns:
            The frames, and what they leave behind: cache and columns.
        """
        a_shift, a_scale, a_gate, m_shift, m_scale, m_gate, c_shift, c_scale, c_gate = vectors
        y, cache = self.attn(_modulate(x, a_shift, a_scale), caches, padding)
        x = x + a_gate * y
        y, columns = self.conv(_modulate(x, c_shift, c_scale), columns, padding)
        x = x + c_gate * y
        y = F.gelu(self.mlp["fc1"](_modulate(x, m_shift, m_scale)), approximate="tanh")
        mixed: Tensor = x + m_gate * self.mlp["fc2"](y)
        return mixed, cache, columns


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

    @property
    def first_block(self) -> DiTBlock:
        """The first of the blocks, which are all of a size."""
        block = self.blocks[0]
        assert isinstance(block, DiTBlock)
        return block

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
        return Modulation(torch.stack(blocks), self.final_layer.adaLN_modulation(embedded)[0].view(2, -1))

    def forget_times(self) -> None:
        """Let go of what makes modulations, a quarter of all weights, once all that are needed are made."""
        del self.t_embedder, self.final_layer.adaLN_modulation
        for block in self.blocks:
            del block.adaLN_modulation

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        past: KVState | None = None,
        padding: Padding | None = None,
        kept: torch.dtype | None = torch.float32,
    ) -> tuple[Tensor, KVState | None]:
        """Estimate a velocity.

        Args:
            x: `(batch, frames, 320)`: noisy mel, conditioning, speaker, prompt mel.
            modulation: of the time.
            past: of earlier chunks at this time.
            padding: what of both is real; None for everything.
            kept: another chunk follows, and what keys and values are kept in; None if nothing follows.

        Returns:
            `(batch, frames, 80)`, and what the chunk leaves behind if that is kept.

        Source: DiT (arXiv 2212.09748), with a convolution in each block.
        """
        x = self.in_proj(x)
        caches, columns = [], []
        for index, block in enumerate(self.blocks):
            before = () if past is None else tuple(part[index] for part in past.parts)
            seen = None if past is None else past.columns[index]
            x, cache, last = block(x, modulation.blocks[index], before, seen, padding)
            if kept is not None:
                caches.append(cache.to(kept))
                columns.append(last)
        velocity: Tensor = self.final_layer.linear(_modulate(x, modulation.output[0], modulation.output[1]))
        return velocity, None if kept is None else KVState(torch.stack(caches), torch.stack(columns))
