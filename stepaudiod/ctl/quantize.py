"""Writes a quantized copy of the language model, which loads faster. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.lm.quantize import size_bytes
from stepaudiod.editx.lm.step1 import Step1ForCausalLM
from stepaudiod.editx.loading import load_step1, write_quantized
from stepaudiod.errors import ModelFileError

PROMPT_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Quantized:
    """The sizes of both models in memory, and how they differ on a random prompt.

    `logits_error` is the root mean square error of the logits, relative to their deviation; `agreement` is
    the fraction of positions at which both models predict the same code.
    """

    path: Path
    size_bytes: int
    full_bytes: int
    logits_error: float
    agreement: float


@torch.inference_mode()
def quantize_checkpoint(root: Path, name: str) -> Quantized:
    """Write the language model quantized, and compare it with the original.

    Raises:
        ModelFileError: a file is missing, truncated or wrong.
        OSError: no disk space, or no permission.
    """
    checkpoint, kind = Checkpoint(root), Quantization(name)
    checkpoint.verify()
    try:
        path = write_quantized(checkpoint, kind, checkpoint.quantized)
    except SafetensorError as error:
        raise ModelFileError(f"{checkpoint.quantized} could not be written: {error}") from None
    device = torch.device("cpu")
    full = load_step1(checkpoint, device, torch.bfloat16)
    small = load_step1(checkpoint, device, torch.bfloat16, kind, checkpoint.quantized)
    expected, logits = _logits(full), _logits(small)
    return Quantized(
        path,
        size_bytes(small),
        size_bytes(full),
        float((logits - expected).square().mean().sqrt() / expected.std()),
        float((logits.argmax(1) == expected.argmax(1)).float().mean()),
    )


def _logits(model: Step1ForCausalLM) -> torch.Tensor:
    """The logits after each position of a fixed prompt: `(tokens, 5121)`."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(65536, 70656, (PROMPT_TOKENS,), generator=generator).tolist()
    return model.audio_logits(model.prefill(prompt, model.new_cache(PROMPT_TOKENS + 1)))
