"""Matrix products in the number format that is fastest on the CPU. Independent of the network.

Most server CPUs multiply bfloat16; one that doesn't takes four times as long as for float32. Converting a
matrix to float32 first pays as soon as some rows share it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MANY_ROWS = 32
"""From here on converting the matrix to float32 costs less than it saves."""


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows `(..., inputs)` by a matrix `(outputs, inputs)`, as precisely as x's type or more."""
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
    """Whether this CPU has instructions for it."""
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("architecture") != "x86_64":
        return True  # PyTorch decides
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Linear(nn.Linear):
    """A matrix without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)
