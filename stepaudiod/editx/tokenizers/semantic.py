"""Semantic codes ("vq06", 25 Hz): a Whisper-shaped encoder and one Euclidean codebook of 4096 vectors.

The network is ours; only its weights come from the published ONNX graph, which is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.headers import count, shape_of
from stepaudiod.editx.checkpoint.onnx_weights import OnnxGraph
from stepaudiod.editx.checkpoint.weights import install, without_values
from stepaudiod.editx.tokenizers.features import semantic_mel

PIECE_SAMPLES = 480000
"""30 s at 16 kHz: the position table ends there, so longer audio is cut into independent pieces."""
SHORTEST_SAMPLES = 480
HEAD_SIZE = 64


class SemanticBlock(nn.Module):
    """Pre-norm attention and feed-forward; the key projection has no bias."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.heads = size // HEAD_SIZE
        self.attn = nn.ModuleDict(
            {
                "query": nn.Linear(size, size),
                "key": nn.Linear(size, size, bias=False),
                "value": nn.Linear(size, size),
                "out": nn.Linear(size, size),
            }
        )
        self.attn_ln = nn.LayerNorm(size)
        self.mlp = nn.ModuleDict({"0": nn.Linear(size, inner), "2": nn.Linear(inner, size)})
        self.mlp_ln = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(batch, frames, size)`, with full attention."""
        y: Tensor = self.attn_ln(x)
        q, k, v = (self._split(self.attn[name](y)) for name in ("query", "key", "value"))
        attended = F.scaled_dot_product_attention(q, k, v)
        y = self.attn["out"](attended.transpose(1, 2).flatten(2))  # (batch, frames, heads * 64)
        x = x + y
        y = self.mlp["2"](F.gelu(self.mlp["0"](self.mlp_ln(x))))
        return x + y

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, HEAD_SIZE).transpose(1, 2)  # (batch, heads, frames, 64)


class SemanticEncoder(nn.Module):
    """Two strided convolutions, learned-length sinusoids, then blocks without a final norm."""

    positional_embedding: Tensor

    def __init__(self, mels: int, size: int, inner: int, layers: int, positions: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(mels, size, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(size, size, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.empty(positions, size))
        self.blocks = nn.ModuleList([SemanticBlock(size, inner) for _ in range(layers)])

    def forward(self, mel: Tensor) -> Tensor:
        """Encode `(batch, 128, frames)` at 100 Hz to unit rows `(batch, ceil(frames / 4), size)`."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)  # (batch, n, size)
        x = x + self.positional_embedding[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.normalize(x, dim=-1, eps=1e-12)


class SemanticTokenizer(nn.Module):
    """Waveform to semantic codes, in float32."""

    codebook: Tensor
    half_norms: Tensor

    def __init__(self, encoder: SemanticEncoder, size: int, codes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("codebook", torch.empty(size, codes))
        self.register_buffer("half_norms", torch.empty(codes))

    def forward(self, waveform: Tensor) -> Tensor:
        """Tokenise `(samples,)` at 16 kHz, trimmed by `features.trim_for_codes`.

        Returns:
            `(m,)` int64 in 0..4095, 25 for each second.

        Source: S3 tokenizer v1 of CosyVoice (arXiv 2407.05407), at a quarter of the mel's frame rate.
        """
        pieces = torch.split(waveform, PIECE_SAMPLES)
        rows = [
            self.encoder(semantic_mel(piece)[None])[0]
            for piece in pieces
            if piece.shape[-1] >= SHORTEST_SAMPLES
        ]
        hidden = torch.cat(rows) if rows else waveform.new_zeros(0, self.codebook.shape[0])  # (n, size)
        return (hidden @ self.codebook - self.half_norms).argmax(dim=1)


def read_semantic(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors of `speech_tokenizer_v1.onnx`, under our module's names."""
    graph = OnnxGraph(path)
    state = {f"encoder.{name}": tensor for name, tensor in _named_state(graph).items()}
    state["codebook"] = graph.operand("/quantizer/rq/model/layers.0/_codebook/MatMul", 1).float()
    state["half_norms"] = state["codebook"].square().sum(0) / 2
    return state


def build_semantic(state: Mapping[str, Tensor], source: Path, device: torch.device) -> SemanticTokenizer:
    """Build the tokeniser from the tensors that `read_semantic` names."""
    size, mels, _ = shape_of(state, "encoder.conv1.weight", source)
    inner, _ = shape_of(state, "encoder.blocks.0.mlp.0.weight", source)
    positions, _ = shape_of(state, "encoder.positional_embedding", source)
    layers = count(state, "encoder.blocks.{}.mlp.0.weight", source)
    with without_values():
        encoder = SemanticEncoder(mels, size, inner, layers, positions)
        tokenizer = SemanticTokenizer(encoder, *shape_of(state, "codebook", source))
    install(tokenizer, state, source, device, torch.float32)
    return tokenizer


def _named_state(graph: OnnxGraph) -> dict[str, Tensor]:
    state = {"positional_embedding": graph.constant("encoders.positional_embedding")}
    for conv in ("conv1", "conv2"):
        state[f"{conv}.weight"] = graph.operand(f"/{conv}/Conv", 1)
        state[f"{conv}.bias"] = graph.operand(f"/{conv}/Conv", 2)
    layer = 0
    while graph.has(f"/blocks.{layer}/attn/query/MatMul"):
        for node in ("attn/query", "attn/key", "attn/value", "attn/out", "mlp/mlp.0", "mlp/mlp.2"):
            name = node.removeprefix("mlp/").replace("/", ".")
            # stored (in, out); the transposed view costs nothing
            state[f"blocks.{layer}.{name}.weight"] = graph.operand(f"/blocks.{layer}/{node}/MatMul", 1).T
        for name in ("attn.query", "attn.value", "attn.out", "mlp.0", "mlp.2", "attn_ln", "mlp_ln"):
            state[f"blocks.{layer}.{name}.bias"] = graph.constant(f"encoders.blocks.{layer}.{name}.bias")
        for name in ("attn_ln", "mlp_ln"):
            state[f"blocks.{layer}.{name}.weight"] = graph.constant(f"encoders.blocks.{layer}.{name}.weight")
        layer += 1
    if layer == 0:
        graph.operand("/blocks.0/attn/query/MatMul", 1)  # raises, naming it
    return state
