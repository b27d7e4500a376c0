"""CAM++: the speaker as 192 numbers. Our network, with the weights of the published ONNX graph.

The exporter folded every BatchNorm into the convolution before it. Those without one are a scale and a shift
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.headers import count
from stepaudiod.editx.checkpoint.onnx_weights import OnnxGraph
from stepaudiod.editx.checkpoint.weights import install, without_values
from stepaudiod.editx.tokenizers.features import speaker_filter_bank

EMBEDDING_SIZE = 192
SEGMENT_FRAMES = 100
DILATIONS = (1, 2, 2)
BATCH_NORM_EPSILON = 1e-5


class Affine(nn.Module):
    """A BatchNorm for inference: one scale and one shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(channels))
        self.shift = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `(batch, channels, frames)`."""
        return x * self.scale[:, None] + self.shift[:, None]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions over frequency and time, halving the frequencies when strided."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, (stride, 1), 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = nn.Conv2d(channels, channels, 1, (stride, 1)) if stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(batch, channels, frequencies, frames)`."""
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Head(nn.Module):
    """The two-dimensional front: 80 frequencies down to 10, then laid out as channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, 1, 1)
        self.layer1 = nn.ModuleList([ResidualBlock(channels, 2), ResidualBlock(channels, 1)])
        self.layer2 = nn.ModuleList([ResidualBlock(channels, 2), ResidualBlock(channels, 1)])
        self.conv2 = nn.Conv2d(channels, channels, 3, (2, 1), 1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn `(batch, 80, frames)` into `(batch, channels * 10, frames)`."""
        x = F.relu(self.conv1(features[:, None]))
        for block in [*self.layer1, *self.layer2]:
            x = block(x)
        return F.relu(self.conv2(x)).flatten(1, 2)


class DenseLayer(nn.Module):
    """One layer of a dense block: a bottleneck, a dilated convolution, and a gate from its context."""

    def __init__(self, channels: int, bottleneck: int, growth: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = Affine(channels)
        self.linear1 = nn.Conv1d(channels, bottleneck, 1)
        self.linear_local = nn.Conv1d(bottleneck, growth, 3, padding=dilation, dilation=dilation, bias=False)
        self.gate1 = nn.Conv1d(bottleneck, bottleneck // 2, 1)
        self.gate2 = nn.Conv1d(bottleneck // 2, growth, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(batch, channels, frames)` to `(batch, growth, frames)`."""
        y = F.relu(self.linear1(F.relu(self.nonlinear1(x))))
        frames = y.shape[-1]
        # a frame's context: the mean over everything plus the mean over its own 100 frames
        segments = F.avg_pool1d(y, SEGMENT_FRAMES, SEGMENT_FRAMES, ceil_mode=True)
        context = y.mean(-1, keepdim=True) + segments.repeat_interleave(SEGMENT_FRAMES, -1)[..., :frames]
        gate: Tensor = torch.sigmoid(self.gate2(F.relu(self.gate1(context))))
        local: Tensor = self.linear_local(y)
        return local * gate


class Transit(nn.Module):
    """Between dense blocks: norm, ReLU, half the channels."""

    def __init__(self, channels: int, has_bias: bool) -> None:
        super().__init__()
        self.nonlinear = Affine(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(batch, channels, frames)`."""
        halved: Tensor = self.linear(F.relu(self.nonlinear(x)))
        return halved


class SpeakerEncoder(nn.Module):
    """The network. All but its head runs in float64: its output may be rounded later."""

    def __init__(self, state: Mapping[str, Tensor], layers: list[int]) -> None:
        super().__init__()
        self.head = Head(state["head.conv1.weight"].shape[0])
        channels, wide, kernel = state["tdnn.weight"].shape
        self.tdnn = nn.Conv1d(wide, channels, kernel, 2, kernel // 2)
        self.blocks = nn.ModuleList()
        self.transits = nn.ModuleList()
        for index, number in enumerate(layers):
            bottleneck = state[f"blocks.{index}.0.linear1.weight"].shape[0]
            growth = state[f"blocks.{index}.0.linear_local.weight"].shape[0]
            dense = [
                DenseLayer(channels + i * growth, bottleneck, growth, DILATIONS[index]) for i in range(number)
            ]
            self.blocks.append(nn.ModuleList(dense))
            channels += number * growth
            self.transits.append(Transit(channels, f"transits.{index}.linear.bias" in state))
            channels //= 2
        self.out_nonlinear = None if "out_nonlinear.scale" not in state else Affine(channels)
        self.dense = nn.Linear(2 * channels, EMBEDDING_SIZE)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the speaker's embedding, `(batch, 192)` and not normalised.

        The features are `(batch, frames, 80)`, a Kaldi filter bank less its mean.

        Source: CAM++ (arXiv 2303.00332).
        """
        x = F.relu(self.tdnn(self.head(features.transpose(1, 2)).double()))
        for block, transit in zip(self.blocks, self.transits, strict=True):
            for layer in block:  # type: ignore[attr-defined]
                x = torch.cat((x, layer(x)), dim=1)
            x = transit(x)
        x = F.relu(x if self.out_nonlinear is None else self.out_nonlinear(x))
        statistics = torch.cat((x.mean(-1), x.std(-1, unbiased=True)), dim=1)  # (batch, 2 * channels)
        embedding: Tensor = self.dense(statistics)
        return embedding.to(features.dtype)

    def embed(self, waveform: Tensor) -> Tensor:
        """The embedding of `(samples,)` at 16 kHz: `(192,)`."""
        embedding: Tensor = self(speaker_filter_bank(waveform)[None])[0]
        return embedding


def read_speaker_encoder(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors of `campplus.onnx`, under our module's names, as precise as they are used."""
    state = {name: tensor.float() for name, tensor in _named_state(OnnxGraph(path)).items()}
    return {name: t if name.startswith("head.") else t.double() for name, t in state.items()}


def build_speaker_encoder(state: Mapping[str, Tensor], source: Path, device: torch.device) -> SpeakerEncoder:
    """Build the network from the tensors that `read_speaker_encoder` names."""
    blocks = range(len(DILATIONS))
    layers = [count(state, f"blocks.{index}.{{}}.linear1.weight", source) for index in blocks]
    with without_values():
        encoder = SpeakerEncoder(state, layers)
    install(encoder, state, source, device)
    return encoder


def _named_state(graph: OnnxGraph) -> dict[str, Tensor]:
    """Name the graph's constants as our module does."""
    state: dict[str, Tensor] = {}
    for conv in ("conv1", "conv2"):
        _take_conv(graph, f"/head/{conv}", state, f"head.{conv}")
    for stage in ("layer1", "layer2"):
        for block in (0, 1):
            node, name = f"/head/{stage}/{stage}.{block}", f"head.{stage}.{block}"
            _take_conv(graph, f"{node}/conv1", state, f"{name}.conv1")
            _take_conv(graph, f"{node}/conv2", state, f"{name}.conv2")
            if graph.has(f"{node}/shortcut/shortcut.0/Conv"):
                _take_conv(graph, f"{node}/shortcut/shortcut.0", state, f"{name}.shortcut")
    _take_conv(graph, "/xvector/tdnn/linear", state, "tdnn")
    for index in range(len(DILATIONS)):
        _take_dense_block(graph, index, state)
        node = f"/xvector/transit{index + 1}"
        _take_norm(graph, f"{node}/nonlinear", state, f"transits.{index}.nonlinear")
        _take_conv(graph, f"{node}/linear", state, f"transits.{index}.linear")
    if graph.has("/xvector/out_nonlinear/batchnorm/BatchNormalization"):
        _take_norm(graph, "/xvector/out_nonlinear", state, "out_nonlinear")
    _take_output(graph, state)
    return state


def _take_dense_block(graph: OnnxGraph, index: int, state: dict[str, Tensor]) -> None:
    layer = 0
    while layer == 0 or graph.has(f"/xvector/block{index + 1}/tdnnd{layer + 1}/linear1/Conv"):
        node, name = f"/xvector/block{index + 1}/tdnnd{layer + 1}", f"blocks.{index}.{layer}"
        _take_norm(graph, f"{node}/nonlinear1", state, f"{name}.nonlinear1")
        _take_conv(graph, f"{node}/linear1", state, f"{name}.linear1")
        _take_conv(graph, f"{node}/cam_layer/linear_local", state, f"{name}.linear_local")
        _take_conv(graph, f"{node}/cam_layer/linear1", state, f"{name}.gate1")
        _take_conv(graph, f"{node}/cam_layer/linear2", state, f"{name}.gate2")
        layer += 1


def _take_conv(graph: OnnxGraph, node: str, state: dict[str, Tensor], name: str) -> None:
    state[f"{name}.weight"] = graph.operand(f"{node}/Conv", 1)
    if graph.has(f"{node}/Conv", 2):
        state[f"{name}.bias"] = graph.operand(f"{node}/Conv", 2)


def _take_norm(graph: OnnxGraph, node: str, state: dict[str, Tensor], name: str) -> None:
    state[f"{name}.scale"], state[f"{name}.shift"] = _affine(graph, f"{node}/batchnorm/BatchNormalization")


def _affine(graph: OnnxGraph, node: str) -> tuple[Tensor, Tensor]:
    """Reduce a BatchNorm's running statistics and weights to a scale and a shift."""
    mean, variance = graph.operand(node, 3).double(), graph.operand(node, 4).double()
    scale = (variance + BATCH_NORM_EPSILON).rsqrt()
    if graph.has(node, 1):
        scale = scale * graph.operand(node, 1).double()
    shift = -mean * scale
    if graph.has(node, 2):
        shift = shift + graph.operand(node, 2).double()
    return scale, shift


def _take_output(graph: OnnxGraph, state: dict[str, Tensor]) -> None:
    """Fold the last BatchNorm, which has no weights of its own, into the output layer."""
    _take_conv(graph, "/xvector/dense/linear", state, "dense")
    weight = state["dense.weight"].double().flatten(1)  # (192, 2 * channels, 1) -> (192, 2 * channels)
    bias = state.get("dense.bias", weight.new_zeros(weight.shape[0]))
    norm = "/xvector/dense/nonlinear/batchnorm/BatchNormalization"
    if graph.has(norm):
        scale, shift = _affine(graph, norm)
        weight, bias = weight * scale[:, None], bias * scale + shift
    state["dense.weight"], state["dense.bias"] = weight, bias
