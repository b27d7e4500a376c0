"""The two ONNX files, written by hand: node names, inputs and constants as the published graphs have them.

They can be read and not run: whatever carries no weight is left out. BatchNorms that follow a convolution are
folded into it, as the exporter does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.editx.draws import Dims, Draws, State


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class GraphWriter:
    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._count = 0

    def constant(self, tensor: Tensor, name: str | None = None) -> str:
        self._count += 1
        name = name or f"onnx::Const_{self._count}"
        array = np.ascontiguousarray(tensor.numpy().astype(np.float32))
        dims = b"".join(field(1, size) for size in array.shape)
        raw = dims + field(2, 1) + field(8, name.encode()) + field(9, array.tobytes())
        self._constants.append(raw)
        return name

    def node(self, name: str, kind: str, operands: Sequence[str]) -> None:
        """Add a node whose first input is computed and whose others are constants."""
        inputs = b"".join(field(1, operand.encode()) for operand in ("x", *operands))
        out = field(2, f"{name}_output".encode())
        self._nodes.append(inputs + out + field(3, name.encode()) + field(4, kind.encode()))

    def write(self, path: Path) -> None:
        graph = b"".join(field(1, node) for node in self._nodes)
        graph += field(2, b"main_graph") + b"".join(field(5, constant) for constant in self._constants)
        path.write_bytes(field(1, 7) + field(7, graph))


def write_semantic(path: Path, dims: Dims) -> State:
    """Write `speech_tokenizer_v1.onnx`; gives its tensors under our module's names."""
    draws, size = Draws("vq06"), dims["dim"]
    graph = GraphWriter()
    state: State = {}

    def take(name: str, *shape: int) -> Tensor:
        state[name] = module_tensor(draws, f"encoders.{name}", shape, 1.0)
        return state[name]

    for conv, channels in (("conv1", 128), ("conv2", size)):
        weight, bias = take(f"{conv}.weight", size, channels, 3).mul_(3.0), take(f"{conv}.bias", size)
        names = [
            graph.constant(weight, f"encoders.{conv}.weight"),
            graph.constant(bias, f"encoders.{conv}.bias"),
        ]
        graph.node(f"/{conv}/Conv", "Conv", names)
    graph.constant(_sinusoids(1500, size), "encoders.positional_embedding")
    for layer in range(dims["layers"]):
        block = f"blocks.{layer}"
        for part in ("attn_ln", "mlp_ln"):
            for what in ("weight", "bias"):
                graph.constant(take(f"{block}.{part}.{what}", size), f"encoders.{block}.{part}.{what}")
        for part, out, inp in (
            ("attn.query", size, size),
            ("attn.key", size, size),
            ("attn.value", size, size),
            ("attn.out", size, size),
            ("mlp.0", 4 * size, size),
            ("mlp.2", size, 4 * size),
        ):
            node = f"/{block}/{part.replace('.', '/' if part.startswith('attn') else '/mlp.')}/MatMul"
            graph.node(node, "MatMul", [graph.constant(take(f"{block}.{part}.weight", out, inp).T)])
            if part != "attn.key":
                graph.constant(take(f"{block}.{part}.bias", out), f"encoders.{block}.{part}.bias")
    codebook = F.normalize(draws.normal("codebook", (4096, size)).double(), dim=-1) * 0.95
    state["codebook"] = codebook.float()
    graph.node(
        "/quantizer/rq/model/layers.0/_codebook/MatMul", "MatMul", [graph.constant(codebook.float().T)]
    )
    graph.write(path)
    return state


def _sinusoids(length: int, size: int) -> Tensor:
    rates = np.exp(-math.log(10000) / (size // 2 - 1) * np.arange(size // 2))
    angles = np.arange(length)[:, None] * rates[None]
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], 1)).float()


def module_tensor(draws: Draws, name: str, shape: Sequence[int], gain: float) -> Tensor:
    """Draw a module's tensor by what it is: variance, mean, a vector or a matrix."""
    if name.endswith("running_var"):
        return draws.uniform(name, shape, 0.5, 1.5)
    if name.endswith("running_mean"):
        return draws.normal(name, shape, 0.1)
    if len(shape) == 1:
        return draws.normal(name, shape, 0.1, 1.0 if name.endswith("weight") else 0.0)
    return draws.normal(name, shape, gain / math.sqrt(math.prod(shape[1:])))


class SpeakerGraph:
    def __init__(self, dims: Dims) -> None:
        self._draws = Draws("campplus")
        self._graph = GraphWriter()
        self._dims = dims

    def write(self, path: Path) -> None:
        self._head()
        channels = self._dims["init"]
        self._folded("xvector.tdnn.linear", (channels, 320, 5), "xvector.tdnn.nonlinear.batchnorm")
        for index, layers in enumerate(self._dims["blocks"], 1):
            for layer in range(layers):
                self._dense(f"xvector.block{index}.tdnnd{layer + 1}", channels)
                channels += self._dims["growth"]
            self._norm(f"xvector.transit{index}.nonlinear.batchnorm", channels)
            after = "xvector.out_nonlinear.batchnorm" if index == len(self._dims["blocks"]) else None
            self._folded(f"xvector.transit{index}.linear", (channels // 2, channels, 1), after)
            channels //= 2
        self._folded("xvector.dense.linear", (192, 2 * channels, 1), None)
        self._norm("xvector.dense.nonlinear.batchnorm", 192, is_affine=False)
        self._graph.write(path)

    def _head(self) -> None:
        self._folded("head.conv1", (32, 1, 3, 3), "head.bn1")
        for stage in ("layer1", "layer2"):
            for block in (0, 1):
                name, node = f"head.{stage}.{block}", f"/head/{stage}/{stage}.{block}"
                for i in (1, 2):
                    self._folded(f"{name}.conv{i}", (32, 32, 3, 3), f"{name}.bn{i}", f"{node}/conv{i}/Conv")
                if block == 0:
                    bn, at = f"{name}.shortcut.1", f"{node}/shortcut/shortcut.0/Conv"
                    self._folded(f"{name}.shortcut.0", (32, 32, 1, 1), bn, at)
        self._folded("head.conv2", (32, 32, 3, 3), "head.bn2")

    def _dense(self, name: str, channels: int) -> None:
        growth = self._dims["growth"]
        bottleneck = 4 * growth
        self._norm(f"{name}.nonlinear1.batchnorm", channels)
        self._folded(f"{name}.linear1", (bottleneck, channels, 1), f"{name}.nonlinear2.batchnorm")
        self._folded(f"{name}.cam_layer.linear_local", (growth, bottleneck, 3), None)
        self._plain(f"{name}.cam_layer.linear1", (bottleneck // 2, bottleneck, 1))
        self._plain(f"{name}.cam_layer.linear2", (growth, bottleneck // 2, 1))

    def _tensor(self, name: str, shape: Sequence[int]) -> Tensor:
        return module_tensor(self._draws, name, shape, 1.4)

    def _plain(self, name: str, shape: Sequence[int]) -> None:
        parts = [self._tensor(f"{name}.weight", shape), self._tensor(f"{name}.bias", shape[:1])]
        self._graph.node(_node(name), "Conv", [self._graph.constant(part) for part in parts])

    def _folded(self, name: str, shape: Sequence[int], norm: str | None, node: str | None = None) -> None:
        operands = [self._tensor(f"{name}.weight", shape)]
        if norm is not None:
            weight, bias, mean, variance = self._norm_tensors(norm, shape[0])
            scale = weight * (variance + 1e-5).rsqrt()
            operands = [operands[0] * scale.view(-1, *[1] * (len(shape) - 1)), bias - mean * scale]
        self._graph.node(node or _node(name), "Conv", [self._graph.constant(part) for part in operands])

    def _norm(self, name: str, size: int, is_affine: bool = True) -> None:
        weight, bias, mean, variance = self._norm_tensors(name, size)
        if not is_affine:
            weight, bias = torch.ones(size), torch.zeros(size)
        operands = [self._graph.constant(part) for part in (weight, bias, mean, variance)]
        self._graph.node(f"/{name.replace('.', '/')}/BatchNormalization", "BatchNormalization", operands)

    def _norm_tensors(self, name: str, size: int) -> list[Tensor]:
        return [
            self._tensor(f"{name}.{part}", (size,))
            for part in ("weight", "bias", "running_mean", "running_var")
        ]


def _node(name: str) -> str:
    return f"/{name.replace('.', '/')}/Conv"
