"""Weights out of an ONNX graph, addressed by node name and input position. Runs no graph.

The published graphs fold and renumber their constants (`onnx::MatMul_1672`), but their node names keep the
module path (`/blocks.0/attn/query/MatMul`), so a weight is addressed as "input 1 of that node".
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from stepaudiod.editx.checkpoint import protobuf
from stepaudiod.editx.checkpoint.headers import mend, reading
from stepaudiod.errors import ModelFileError

ONNX_DTYPES = {
    1: torch.float32,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}


@dataclass(frozen=True)
class Node:
    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    value: memoryview | None = field(default=None, repr=False)


class OnnxGraph:
    """The nodes and constants of one ONNX file, memory-mapped.

    Raises:
        ModelFileError: the file is missing, cut short, or no ONNX graph.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nodes: dict[str, Node] = {}
        self._constants: dict[str, memoryview] = {}
        with reading(path, "readable ONNX graph", OSError, ValueError):
            with path.open("rb") as file:
                # a private copy-on-write map: torch wants writable memory, and nothing is written
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._read(memoryview(mapped))
        if not self.nodes:
            raise ModelFileError(f"{path} holds no ONNX nodes; {mend()}")

    def _read(self, buffer: memoryview) -> None:
        for graph in _messages(buffer, 7):
            for number, _, value in protobuf.fields(graph):
                if number == 1:
                    node = _node(protobuf.view(value))
                    self.nodes[node.name] = node
                    if node.kind == "Constant" and node.value is not None:
                        self._constants[node.outputs[0]] = node.value
                elif number == 5:
                    self._constants[_tensor_name(protobuf.view(value))] = protobuf.view(value)
        for node in self.nodes.values():
            if node.kind == "Identity" and node.inputs[0] in self._constants:
                self._constants[node.outputs[0]] = self._constants[node.inputs[0]]

    def has(self, node: str, position: int = 0) -> bool:
        """Whether `node` exists and has a constant at input `position`; 0 is whether it exists."""
        found = self.nodes.get(node)
        return found is not None and (
            position == 0 or (position < len(found.inputs) and found.inputs[position] in self._constants)
        )

    def operand(self, node: str, position: int) -> Tensor:
        """The constant at input `position` of `node`, not copied where its bytes are aligned."""
        if not self.has(node, position):
            raise ModelFileError(f"{self.path} has no weight at input {position} of node {node}; {mend()}")
        return self._tensor(self.nodes[node].inputs[position])

    def constant(self, name: str) -> Tensor:
        if name not in self._constants:
            raise ModelFileError(f"{self.path} has no tensor {name}; {mend()}")
        return self._tensor(name)

    def _tensor(self, name: str) -> Tensor:
        try:
            return _tensor(self._constants[name])
        except (ValueError, KeyError, RuntimeError) as error:
            raise ModelFileError(f"{self.path}: tensor {name} can't be read: {error}; {mend()}") from error


def _messages(buffer: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, kind, value in protobuf.fields(buffer):
        if number == wanted and kind == protobuf.BYTES:
            yield protobuf.view(value)


def _node(buffer: memoryview) -> Node:
    inputs, outputs, name, kind, constant = [], [], "", "", None
    for number, _, value in protobuf.fields(buffer):
        if number == 1:
            inputs.append(protobuf.text(value))
        elif number == 2:
            outputs.append(protobuf.text(value))
        elif number == 3:
            name = protobuf.text(value)
        elif number == 4:
            kind = protobuf.text(value)
        elif number == 5 and kind == "Constant":
            constant = next(_messages(protobuf.view(value), 5), None)
    return Node(
        name or f"{kind}:{outputs[0] if outputs else ''}", kind, tuple(inputs), tuple(outputs), constant
    )


def _tensor_name(buffer: memoryview) -> str:
    return next((protobuf.text(value) for number, _, value in protobuf.fields(buffer) if number == 8), "")


def _tensor(buffer: memoryview) -> Tensor:
    dims: list[int] = []
    dtype, raw, packed = 0, None, None
    for number, kind, value in protobuf.fields(buffer):
        if number == 1:
            dims += protobuf.varints(value)
        elif number == 2 and isinstance(value, int):
            dtype = value
        elif number == 9:
            raw = protobuf.view(value)
        elif number in (4, 7) and kind == protobuf.BYTES:
            packed = protobuf.view(value)
        elif number == 13:
            raise ValueError("its data is in another file")
    if dtype not in ONNX_DTYPES:
        raise ValueError(f"element type {dtype}")
    if raw is None and packed is not None and dtype == 1:
        raw = packed  # packed floats have the layout of raw data
    if raw is None:
        raise ValueError("it contains no data")
    flat = torch.frombuffer(raw, dtype=torch.uint8)
    if flat.data_ptr() % 8:
        flat = flat.clone()
    return flat.view(ONNX_DTYPES[dtype]).reshape(dims)
