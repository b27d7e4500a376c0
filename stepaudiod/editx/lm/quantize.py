"""The language model in fewer bits: int8 or int4 weights, computed in the model's own precision.

    int8   one scale per output row                     half of bfloat16
    int4   a scale and a zero per 64 inputs, two to a byte   a good quarter of it

Only the layers' matrices change; embedding, output layer and norms stay. A quantized model can be written to
a folder and loaded from it, so that the full model isn't read again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stepaudiod.editx.checkpoint.headers import mend, safetensors_header
from stepaudiod.editx.checkpoint.layout import QUANTIZED
from stepaudiod.editx.lm.config import QUANTIZATION_GROUP, Quantization
from stepaudiod.editx.lm.linear import linear
from stepaudiod.errors import InvalidRequest, ModelFileError

FEW_ROWS = 16
"""Up to here a kernel that reads int8 directly is faster than unpacking the whole matrix first."""
ALIGNMENT = 64
LAYOUT = "halves"
"""The order of int4 weights in their bytes; a file with another one can't be used."""


class Int8Linear(nn.Module):
    """A linear layer without bias, int8 weights, one scale per row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(outputs))

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> Int8Linear:
        """Quantize `(outputs, inputs)`."""
        with torch.device("meta"):
            layer = cls(weight.shape[1], weight.shape[0])
        scale = weight.float().abs().amax(dim=1).clamp_min(1e-8) / 127
        layer.weight = (weight.float() / scale[:, None]).round_().to(torch.int8)
        layer.scale = scale.to(dtype)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(..., inputs)`."""
        flat = x.reshape(-1, x.shape[-1])  # (n, inputs)
        if x.device.type == "cpu" and x.dtype is torch.bfloat16 and flat.shape[0] <= FEW_ROWS:
            self._align()
            return torch._weight_int8pack_mm(flat, self.weight, self.scale).view(*x.shape[:-1], -1)
        return linear(x, self.weight) * self.scale

    def _align(self) -> None:
        """Copy tensors that a mapped file put at an odd address: there the kernel's wide loads crash."""
        if self.weight.data_ptr() % ALIGNMENT:
            self.weight = self.weight.clone()
        if self.scale.data_ptr() % ALIGNMENT:
            self.scale = self.scale.clone()


class Int4Linear(nn.Module):
    """A linear layer without bias, two int4 weights to a byte, a scale and a zero per 64 inputs.

    A byte holds a weight of the first half of a row in its low bits and one of the second half above: so a
    kernel that reads bytes in order reads both halves in order.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self._kernel: tuple[Tensor, Tensor] | None = None
        groups = inputs // QUANTIZATION_GROUP
        self.register_buffer("packed", torch.empty(outputs, inputs // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(outputs, groups))
        self.register_buffer("zero", torch.empty(outputs, groups))

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> Int4Linear:
        """Quantize `(outputs, inputs)`; inputs must be a multiple of 64."""
        outputs, inputs = weight.shape
        with torch.device("meta"):
            layer = cls(inputs, outputs)
        groups = weight.float().view(outputs, -1, QUANTIZATION_GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        scale = ((high - low) / 15).clamp_min(1e-8).to(dtype)
        low = low.to(dtype)
        levels = ((groups - low.float()[..., None]) / scale.float()[..., None]).round_().clamp_(0, 15)
        halves = levels.to(torch.uint8).view(outputs, 2, -1)
        layer.packed = halves[:, 0] | halves[:, 1] << 4
        layer.scale, layer.zero = scale, low
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(..., inputs)`."""
        if x.device.type == "cpu" and x.dtype is torch.bfloat16:
            return self._forward_packed(x)
        return F.linear(x, self.dequantized(x.dtype))

    def _forward_packed(self, x: Tensor) -> Tensor:
        """Run with the kernel that reads int4 directly; the first call packs the weights for it."""
        if self._kernel is None:
            levels = self._levels().flatten(1).to(torch.int32)  # (outputs, inputs)
            # the kernel counts levels from 8
            centres = torch.stack((self.scale.float(), self.zero.float() + 8 * self.scale.float()), dim=-1)
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 2)
            self._kernel = packed, centres.transpose(0, 1).contiguous().to(torch.bfloat16)
            self.packed = self.packed[:0]
        flat = x.reshape(-1, x.shape[-1])  # (n, inputs)
        made: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            flat, self._kernel[0], QUANTIZATION_GROUP, self._kernel[1]
        )
        return made.view(*x.shape[:-1], -1)

    def _levels(self) -> Tensor:
        """(outputs, groups, 64): the levels 0 to 15."""
        halves = torch.cat((self.packed & 15, self.packed >> 4), dim=-1)  # (outputs, inputs)
        return halves.view(self.packed.shape[0], -1, QUANTIZATION_GROUP)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The rounded weights, `(outputs, inputs)`."""
        levels = self._levels().to(dtype)
        return torch.addcmul(self.zero[..., None].to(dtype), levels, self.scale[..., None].to(dtype)).flatten(
            1
        )


LAYERS: dict[Quantization, type[Int8Linear] | type[Int4Linear]] = {
    Quantization.INT8: Int8Linear,
    Quantization.INT4: Int4Linear,
}


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Every matrix of the decoder layers: its parent, its name in it, its weights."""
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            full = f"{path}.{name}"
            if isinstance(child, nn.Linear) and ".layers." in f".{full}":
                yield parent, name, child.weight.data


def quantize(
    model: nn.Module,
    kind: Quantization,
    device: torch.device,
    dtype: torch.dtype,
    on_host: Collection[str] = (),
) -> None:
    """Replace a language model's matrices and move it to a device, one tensor at a time.

    Of a memory-mapped model, the device never holds more than the quantized model and one matrix. Tensors
    named in `on_host` are not moved.
    """
    for parent, name, weight in _linears(model):
        setattr(parent, name, LAYERS[kind].of(weight.to(device), dtype))
    for name, parameter in model.named_parameters():
        if name not in on_host:
            parameter.data = parameter.data.to(device, dtype)


def prepare(model: nn.Module, kind: Quantization) -> None:
    """Replace a model's matrices on the meta device, to be filled from a saved file."""
    for parent, name, weight in _linears(model):
        with torch.device("meta"):
            setattr(parent, name, LAYERS[kind](weight.shape[1], weight.shape[0]))


def save(model: nn.Module, kind: Quantization, folder: Path) -> Path:
    """Write a quantized model's tensors to a folder; returns the file.

    Raises:
        InvalidRequest: the model has run in int4 on the CPU, so its weights are packed for a kernel.
    """
    if any(isinstance(layer, Int4Linear) and layer.packed.numel() == 0 for layer in model.modules()):
        raise InvalidRequest(
            "a model in int4 must be saved before it runs on the CPU; load it again", "model"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / QUANTIZED.format(kind.value)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    partial = path.with_suffix(".part")
    save_file(state, partial, _metadata(kind))
    partial.replace(path)
    return path


def _metadata(kind: Quantization) -> dict[str, str]:
    return {"quantization": kind.value, "group_size": json.dumps(QUANTIZATION_GROUP), "layout": LAYOUT}


def read_saved(path: Path, kind: Quantization) -> dict[str, Tensor]:
    """Memory-map the tensors that `save` wrote.

    Raises:
        ModelFileError: the file is missing, cut short, or of another kind.
    """
    safetensors_header(path)
    with safe_open(path, framework="pt", device="cpu") as file:
        found, wanted = file.metadata() or {}, _metadata(kind)
        if found.get("quantization") != kind.value:
            raise ModelFileError(
                f"{path}: expected weights in {kind.value}, found {found.get('quantization')}; {mend()}"
            )
        if found != wanted:
            raise ModelFileError(
                f"{path}: expected {wanted}, found {found}; delete it, and it is written again"
            )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it isn't a dictionary)


def size_bytes(model: nn.Module) -> int:
    """Size of a model's tensors."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
