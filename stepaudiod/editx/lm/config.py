"""The language model's dimensions, number formats and sizes in memory. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from stepaudiod.editx.checkpoint.headers import mend, read_config
from stepaudiod.errors import InvalidRequest, ModelFileError

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Names of number formats in the configuration, and PyTorch's."""
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
ON_HOST = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors that stay on the host, memory-mapped, when the model is on a GPU: few of their rows are read."""
QUANTIZATION_GROUP = 64
"""Inputs that share a scale in int4."""
DEFAULT_LENGTH = 8192
"""Positions of one sequence, prompt and output together."""
DEFAULT_POSITIONS = 32768
"""Positions of all sequences together on a GPU: a gigabyte of keys and values."""
PAGE = 64
"""Positions per page on a GPU."""


class Quantization(Enum):
    INT8 = "int8"
    INT4 = "int4"

    @classmethod
    def named(cls, name: str | None) -> Quantization | None:
        """Find one by its name, or by the variant names of older interfaces: base, bnb, awq.

        Raises:
            InvalidRequest: there is none of that name.
        """
        known = {
            "base": None,
            "none": None,
            "int8": cls.INT8,
            "bnb": cls.INT8,
            "int4": cls.INT4,
            "awq": cls.INT4,
        }
        if name is None:
            return None
        if name.lower() not in known:
            raise InvalidRequest(
                f"there is no quantization {name!r}; there are {', '.join(known)}", "quantization"
            )
        return known[name.lower()]


@dataclass(frozen=True)
class Step1Config:
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_attention_groups: int
    num_hidden_layers: int
    vocab_size: int
    max_seq_len: int
    rms_norm_eps: float

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def read(cls, path: Path) -> Step1Config:
        """Read `config.json`; other keys are ignored.

        Raises:
            ModelFileError: it is missing, or a dimension is.
        """
        found: dict[str, Any] = read_config(path)
        missing = [name for name in cls.__annotations__ if not isinstance(found.get(name), int | float)]
        if missing:
            raise ModelFileError(f"{path}: expected a number for {', '.join(missing)}; {mend()}")
        return cls(**{name: found[name] for name in cls.__annotations__})

    def pool_bytes(self, positions: int, value_bytes: int) -> int:
        """Size of a pool of keys and values of so many positions."""
        values = 2 * self.num_hidden_layers * self.num_attention_groups * self.head_size
        return values * positions * value_bytes
