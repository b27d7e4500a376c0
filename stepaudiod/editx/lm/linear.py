"""Products with weights, in the arithmetic that the processor is good at. Knows no network.

Most processors for servers multiply bfloat16; one that can't is told to all the same, and takes four times as
long as for float32. Turning a matrix into float32 first pays as soon as some rows share it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MANY_ROWS = 32
"""From here on turning the matrix into float32 costs less than it saves."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows `(..., inputs)` by a matrix `(outputs, inputs)`, as precisely as x's type is, or more."""
    rows = x.shape[:-1].numel()
    if (
        x.device.type == "cpu"
        and x.dtype is torch.bfloat16
        and rows >= MANY_ROWS
        and not multiplies_bfloat16()
    ):
        return F.linear(x.float(), weight.float()).to(x.dtype)
    return F.linear(x, weight.to(x.dtype))


def multiplies_bfloat16() -> bool:
    """Tell whether this processor does so by itself."""
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("architecture") != "x86_64":
        return True  # there PyTorch knows better
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Linear(nn.Linear):
    """A matrix without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run over `(..., inputs)`."""
        return product(x, self.weight)
