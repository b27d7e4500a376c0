"""Random numbers in Triton: on a GPU, or in its interpreter (`TRITON_INTERPRET=1`)."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from stepaudiod.editx import philox

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA build")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not IS_INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

import triton.language as tl  # noqa: E402 (after the check that Triton is there)

from stepaudiod.editx.philox_kernels import fill_normal, gumbel  # noqa: E402

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cpu" if IS_INTERPRETED else "cuda")
STREAM = 0x91ED2701


@triton.jit
def draw_gumbel(y_ptr, seed_ptr, position, SIZE: tl.constexpr):
    code = tl.arange(0, SIZE)
    tl.store(y_ptr + code, gumbel(tl.load(seed_ptr), position, code))


@pytest.mark.parametrize("seed", [0, 5, 2**48 - 1, 2**63 + 12345])
def test_kernels_make_the_numbers_of_a_processor(seed: int) -> None:
    made = torch.empty(1300, device=DEVICE)
    fill_normal(made, seed, STREAM, 1_000_003)
    assert near(made, philox.normal(seed, STREAM, 1_000_003, 1300))
    noise = torch.empty(64, device=DEVICE)
    seeds = torch.tensor([seed - (2**64 if seed >= 2**63 else 0)], device=DEVICE)
    draw_gumbel[(1,)](noise, seeds, 77, SIZE=64)
    assert near(noise, philox.gumbel(seed, 77, torch.arange(64)))


def near(made: Tensor, right: Tensor) -> bool:
    """Equal but for the last bit: other bits would give quite other numbers."""
    return torch.allclose(made.cpu(), right, rtol=1e-6, atol=1e-7)
