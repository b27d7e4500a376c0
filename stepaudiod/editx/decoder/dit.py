"""The flow decoder's estimator: a diffusion transformer that predicts the velocity of a noisy mel.

Its layer norms are modulated by the time alone, and every solve has the same ten times, so `Modulation` is
computed once per time and kept. The order within a block is attention, convolution, feed-forward.

Chunks: convolutions are causal and keep two columns; attention keeps keys and values of the prompt and of the
newest frames. Attention has no positions, so the order of the cached keys doesn't matter, and those of the
prompt can be stored elsewhere, shared by all streams of a voice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.decoder.config import KERNEL, FlowConfig

MELS = 80
TIME_FEATURES = 256


@dataclass(frozen=True)
class Modulation:
    """Everything that depends on the time only: nine vectors per block, and two for the output.

    Args:
        blocks: `(blocks, 9, hidden)`: shift, scale, gate for attention, feed-forward and convolution.
        output: `(2, hidden)`: shift, scale.
    """

    blocks: Tensor
    output: Tensor


@dataclass(frozen=True)
class KVState:
    """The state of earlier chunks, for one time.

    Args:
        caches: `(blocks, 2, batch, heads, frames, head)` keys and values, the newest first.
        columns: `(blocks, 2, batch, hidden, 2)`, the two last columns of both convolutions.
        prompt: keys and values of the prompt in the same form; shared, so never written to.
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
        """Number of frames, the prompt's included."""
        return sum(part.shape[4] for part in self.parts)

    def as_prompt(self) -> KVState:
        """The same state with everything read so far as the prompt."""
        whole = self.parts[0] if self.prompt is None else torch.cat(self.parts, dim=4)
        return KVState(whole[..., :0, :].clone(), self.columns, whole)

    def followed_by(self, new: KVState, newest: int) -> KVState:
        """The state after a chunk: the chunk's own in front, and at most `newest` frames in all.

        Older frames are freed: nothing here is a view of a larger tensor.
        """
        frames = new.caches.shape[4]
        if frames >= newest:
            kept = new.caches if frames == newest else new.caches[..., :newest, :].clone()
        else:
            kept = torch.cat((new.caches, self.caches[..., : newest - frames, :]), dim=4)
        return KVState(kept, new.columns, self.prompt)


@dataclass
class EstimatorState:
    """The state of one stream at one time, which grows by chunks.

    It keeps the `newest` frames beside the prompt; None keeps all.
    """

    past: KVState | None = None
    newest: int | None = None

    @property
    def frames(self) -> int:
        return 0 if self.past is None else self.past.frames

    def append(self, new: KVState) -> None:
        newest = self.newest if self.newest is not None else self.frames + new.frames
        past = KVState(new.caches[..., :0, :], new.columns) if self.past is None else self.past
        self.past = past.followed_by(new, newest)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class BlockAttention(nn.Module):
    """Full attention without positions; queries and keys are normalised per head."""

    def __init__(self, size: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.to_q = nn.Linear(size, heads * head_size)
        self.to_k = nn.Linear(size, heads * head_size)
        self.to_v = nn.Linear(size, heads * head_size)
        self.q_norm = nn.LayerNorm(head_size)
        self.k_norm = nn.LayerNorm(head_size)
        self.proj = nn.Linear(heads * head_size, size)

    def forward(self, x: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Attend from `(batch, frames, size)` to itself and the past; also returns its keys and values."""
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, frames, head)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        new = torch.stack((k, v))
        if past:
            k, v = torch.cat((new, *past), dim=3)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).flatten(2)), new


class BlockConvolution(nn.Module):
    """Two causal convolutions around a norm and Mish; names follow the checkpoint's positions."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {"1": nn.Conv1d(size, size, KERNEL), "3": nn.LayerNorm(size), "6": nn.Conv1d(size, size, KERNEL)}
        )

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run over `(batch, frames, size)`; also returns both convolutions' last columns."""
        x, first = self._causal("1", x.transpose(1, 2), None if past is None else past[0])
        x = F.mish(self.block["3"](x.transpose(1, 2)))
        x, second = self._causal("6", x.transpose(1, 2), None if past is None else past[1])
        return x.transpose(1, 2), torch.stack((first, second))

    def _causal(self, name: str, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        x = torch.cat((x.new_zeros(*x.shape[:2], KERNEL - 1) if past is None else past, x), dim=2)
        return self.block[name](x), x[..., 1 - KERNEL :]


class DiTBlock(nn.Module):
    def __init__(self, size: int, heads: int, head_size: int, inner: int) -> None:
        super().__init__()
        self.size = size
        self.attn = BlockAttention(size, heads, head_size)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(size, inner), "fc2": nn.Linear(inner, size)})
        self.conv = BlockConvolution(size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 9 * size))

    def forward(
        self, x: Tensor, vectors: Tensor, caches: tuple[Tensor, ...], columns: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run over `(batch, frames, size)`.

        The `(9, size)` vectors are shift, scale and gate, three times; caches and columns are those of
        earlier chunks, see `KVState`. Returns the frames, and their cache and columns.
        """
        a_shift, a_scale, a_gate, m_shift, m_scale, m_gate, c_shift, c_scale, c_gate = vectors
        y, cache = self.attn(_modulate(x, a_shift, a_scale), caches)
        x = x + a_gate * y
        y, columns = self.conv(_modulate(x, c_shift, c_scale), columns)
        x = x + c_gate * y
        y = F.gelu(self.mlp["fc1"](_modulate(x, m_shift, m_scale)), approximate="tanh")
        mixed: Tensor = x + m_gate * self.mlp["fc2"](y)
        return mixed, cache, columns


class FinalLayer(nn.Module):
    """The last norm, modulated by the time, and the projection to mels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 2 * size))
        self.linear = nn.Linear(size, MELS)


class DiT(nn.Module):
    """The estimator; parameter names are the checkpoint's."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        size = config.size
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(TIME_FEATURES, size), nn.SiLU(), nn.Linear(size, size))}
        )
        self.in_proj = nn.Linear(4 * MELS, size)
        self.blocks = nn.ModuleList(
            [DiTBlock(size, config.heads, config.head_size, config.inner) for _ in range(config.depth)]
        )
        self.final_layer = FinalLayer(size)

    def modulation(self, time: Tensor) -> Modulation:
        """Compute everything that depends on a time `()` in 0..1 only."""
        half = TIME_FEATURES // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=time.device) / half)
        angles = time.float() * 1000.0 * rates
        features = torch.cat((angles.cos(), angles.sin())).to(self.in_proj.weight.dtype)
        # two rows, as in guidance, of which one is kept: a single row uses another kernel with other last
        # bits
        embedded = self.t_embedder["mlp"](features.expand(2, -1))
        layers = [*(block.get_submodule("adaLN_modulation") for block in self.blocks)]
        blocks = [layer(embedded)[0].view(9, -1) for layer in layers]
        return Modulation(torch.stack(blocks), self.final_layer.adaLN_modulation(embedded)[0].view(2, -1))

    def forget_times(self) -> None:
        """Free the weights that make modulations, a quarter of all, once every modulation is made."""
        del self.t_embedder, self.final_layer.adaLN_modulation
        for block in self.blocks:
            del block.adaLN_modulation

    def forward(
        self, x: Tensor, modulation: Modulation, past: KVState | None = None
    ) -> tuple[Tensor, KVState]:
        """Estimate a velocity.

        Args:
            x: `(batch, frames, 320)`: noisy mel, conditioning, speaker, prompt mel.
            modulation: of the time.
            past: of earlier chunks at this time.

        Returns:
            `(batch, frames, 80)`, and the chunk's state.

        Source: DiT (arXiv 2212.09748), with a convolution in each block.
        """
        x = self.in_proj(x)
        caches, columns = [], []
        for index, block in enumerate(self.blocks):
            before = () if past is None else tuple(part[index] for part in past.parts)
            seen = None if past is None else past.columns[index]
            x, cache, last = block(x, modulation.blocks[index], before, seen)
            caches.append(cache)
            columns.append(last)
        velocity: Tensor = self.final_layer.linear(_modulate(x, modulation.output[0], modulation.output[1]))
        return velocity, KVState(torch.stack(caches), torch.stack(columns))
