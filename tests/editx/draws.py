"""Seeded random weights: values depend on seed, component and name only, the same on every machine."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]
Dims = dict[str, Any]

PRESETS: dict[str, dict[str, Dims]] = {
    # head sizes as published; 6 heads, so that the slopes need their second part; 3 heads a group
    "tiny": {
        "lm": {"hidden": 384, "inter": 512, "heads": 6, "groups": 2, "layers": 3},
        "flow": {"dim": 512, "heads": 8, "ff": 256, "blocks": 2, "up_blocks": 2, "depth": 2, "head_dim": 64},
        "hift": {"base": 64, "cond": 64},
        "campplus": {"blocks": (2, 3, 2), "growth": 32, "init": 128},
        "vq06": {"dim": 128, "layers": 2},
        "vq02": {"blocks": 3, "ff": 256},
    },
    "micro": {
        "lm": {"hidden": 192, "inter": 192, "heads": 3, "groups": 1, "layers": 2},
        "flow": {"dim": 64, "heads": 2, "ff": 64, "blocks": 1, "up_blocks": 1, "depth": 1, "head_dim": 32},
        "hift": {"base": 32, "cond": 16},
        "campplus": {"blocks": (1, 1, 1), "growth": 16, "init": 32},
        "vq06": {"dim": 64, "layers": 1},
        "vq02": {"blocks": 2, "ff": 64},
    },
}
"""Dimensions that keep every kind of part. `tiny` is the one the goldens were made with."""
SEED = 20260101


class Draws:
    def __init__(self, component: str, seed: int = SEED) -> None:
        self._seed, self._component = seed, component

    def normal(self, name: str, shape: Sequence[int], std: float = 1.0, mean: float = 0.0) -> Tensor:
        drawn = self._generator(name).standard_normal(tuple(shape), dtype=np.float32)
        return torch.from_numpy(drawn).mul_(float(std)).add_(float(mean))

    def uniform(self, name: str, shape: Sequence[int], low: float, high: float) -> Tensor:
        drawn = self._generator(name).random(tuple(shape), dtype=np.float32)
        return torch.from_numpy(drawn).mul_(float(high - low)).add_(float(low))

    def _generator(self, name: str) -> np.random.Generator:
        # numpy's scalar generators rather than torch's vectorised ones: the same bits everywhere
        key = (self._seed << 32) ^ zlib.crc32(f"{self._component}/{name}".encode())
        return np.random.Generator(np.random.Philox(key=key))


class StateBuilder:
    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.state: State = {}

    def linear(
        self, name: str, out: int, inp: int, bias: bool = True, gain: float = 1.0, bias_std: float = 0.02
    ) -> None:
        self.state[f"{name}.weight"] = self.draws.normal(f"{name}.weight", (out, inp), gain / math.sqrt(inp))
        if bias:
            self.state[f"{name}.bias"] = self.draws.normal(f"{name}.bias", (out,), bias_std)

    def conv(self, name: str, out: int, inp: int, kernel: int, bias: bool = True, gain: float = 1.0) -> None:
        std = gain / math.sqrt(inp * kernel)
        self.state[f"{name}.weight"] = self.draws.normal(f"{name}.weight", (out, inp, kernel), std)
        if bias:
            self.state[f"{name}.bias"] = self.draws.normal(f"{name}.bias", (out,), 0.02)

    def norm(self, name: str, size: int, mean: float = 1.0, std: float = 0.1, bias_std: float = 0.05) -> None:
        self.state[f"{name}.weight"] = self.draws.normal(f"{name}.weight", (size,), std, mean)
        self.state[f"{name}.bias"] = self.draws.normal(f"{name}.bias", (size,), bias_std)

    def weight_norm(
        self, name: str, shape: tuple[int, int, int], biases: int, gain: float = 1.0, fan: int | None = None
    ) -> None:
        """Add a weight-normed convolution: a magnitude and a direction whose own length doesn't count."""
        direction = self.draws.normal(f"{name}.v", shape, gain / math.sqrt(fan or shape[1] * shape[2]))
        scale = self.draws.uniform(f"{name}.g", (shape[0], 1, 1), 0.8, 1.2)
        length = direction.double().flatten(1).norm(dim=1).float().view(-1, 1, 1)
        self.state[f"{name}.bias"] = self.draws.normal(f"{name}.bias", (biases,), 0.02)
        self.state[f"{name}.parametrizations.weight.original0"] = length * scale
        self.state[f"{name}.parametrizations.weight.original1"] = direction * 1.7
