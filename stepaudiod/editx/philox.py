"""Random numbers that are a function of a seed and a place: Philox4x32-10.

Each number has an address, so it is the same whatever was drawn before, alone or beside other requests, on a
processor and on a GPU. `philox_kernels` computes the same in Triton: the bits are equal, and logarithms and
cosines are taken in float64, so that the float32 results agree but for a rare last bit.

    counter   (code, position, 0, 0)             Gumbel noise of a code at a position of the output
              (number // 4, 0, stream, 1)        four normal numbers of a stream
    key       the seed, its low half first

Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC11).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CPU = torch.device("cpu")
ROUNDS = 10
_LOW = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(seed: int, counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int]) -> Words:
    """Four words of random bits for each counter.

    Args:
        seed: 64 bits of it are used.
        counter: four words of 32 bits, int64 tensors that can be broadcast together.

    Returns:
        Four int64 tensors of values below 2**32, of the counter's common shape.
    """
    c0, c1, c2, c3 = (torch.as_tensor(word, dtype=torch.int64) for word in counter)
    k0, k1 = seed & _LOW, seed >> 32 & _LOW
    for _ in range(ROUNDS):
        # int64 wraps, and its upper half is right once the sign is masked
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (second >> 32 & _LOW) ^ c1 ^ k0, second & _LOW
        c2, c3 = (first >> 32 & _LOW) ^ c3 ^ k1, first & _LOW
        k0, k1 = k0 + _KEY_STEPS[0] & _LOW, k1 + _KEY_STEPS[1] & _LOW
    return c0, c1, c2, c3


def uniform(bits: Tensor) -> Tensor:
    """Words to float64 numbers above 0 and below 1, all of which float32 can hold."""
    return ((bits >> 9).double() + 0.5) * 2.0**-23


def gumbel(seed: int, positions: Tensor | int, codes: Tensor) -> Tensor:
    """Gumbel noise, which turns argmax into sampling: float32, of both arguments' common shape."""
    return -(-uniform(philox(seed, (codes, positions, 0, 0))[0]).log()).log().float()


def normal(seed: int, stream: int, first: int, count: int, device: torch.device = CPU) -> Tensor:
    """Numbers `first` to `first + count` of a stream of normal numbers: `(count,)` float32.

    `stream` is any number of 32 bits; another has numbers of its own.
    """
    if device.type == "cuda":
        # Triton comes with PyTorch's CUDA build only
        from stepaudiod.editx.philox_kernels import fill_normal

        made = torch.empty(count, device=device)
        fill_normal(made, seed, stream, first)
        return made
    blocks = torch.arange(first // 4, (first + count + 3) // 4)
    u = [uniform(bits) for bits in philox(seed, (blocks, 0, stream & _LOW, 1))]
    pairs = [_box_muller(u[0], u[1]), _box_muller(u[2], u[3])]
    numbers = torch.stack([x for pair in pairs for x in pair], dim=1).flatten()  # (blocks * 4,)
    return numbers[first % 4 : first % 4 + count].float()


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    radius, angle = (-2.0 * first.log()).sqrt(), 2.0 * math.pi * second
    return radius * angle.cos(), radius * angle.sin()
