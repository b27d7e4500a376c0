"""Writing the language model in fewer bits once, so that loading need not read all of it. Imports torch."""

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
    """What was written.

    Attributes:
        path: the file.
        size_bytes: of the language model in memory.
        full_bytes: of the full one.
        logits_error: root mean square error of the scores on a random prompt, by their own spread.
        agreement: share of positions at which both find the same id likeliest.
    """

    path: Path
    size_bytes: int
    full_bytes: int
    logits_error: float
    agreement: float


@torch.inference_mode()
def quantize_checkpoint(root: Path, name: str) -> Quantized:
    """Write the language model of the checkpoint below a folder in fewer bits, and compare the two.

    Args:
        root: holds both published folders.
        name: `int8` or `int4`.

    Raises:
        ModelFileError: a file is missing, cut short or wrong.
        OSError: there is no room, or no right.
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
    size, right, made = size_bytes(small), _scores(full), _scores(small)
    return Quantized(
        path,
        size,
        size_bytes(full),
        float((made - right).square().mean().sqrt() / right.std()),
        float((made.argmax(1) == right.argmax(1)).float().mean()),
    )


def _scores(model: Step1ForCausalLM) -> torch.Tensor:
    """The scores of codes after each position of a prompt that is always the same: `(tokens, 5121)`."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(65536, 70656, (PROMPT_TOKENS,), generator=generator).tolist()
    return model.audio_logits(model.prefill(prompt, model.new_cache(1, PROMPT_TOKENS + 1)))
