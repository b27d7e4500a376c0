"""The GPU memory that the model needs, by the plan that the engine makes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stepaudiod.config import StepAudio
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.memory_plan import MemoryNeeds
from stepaudiod.errors import EngineUnavailable, StepaudiodError

PLENTY_BYTES = 1 << 50
"""Of a card that fits everything: then only the configured size can be too little."""


@dataclass(frozen=True)
class Need:
    """The model's need of a GPU.

    Attributes:
        free_bytes: must be free before it is loaded; 0 if that isn't known.
        trouble: why it isn't known, or why the configured size is too little.
        is_refused: whether it is the latter.
    """

    free_bytes: int
    trouble: str = ""
    is_refused: bool = False


def gpu_need(models: Path, settings: StepAudio) -> Need:
    """Make the plan.

    Args:
        models: contains both published folders.
        settings: the configuration of the model.
    """
    try:
        kind = Quantization.named(settings.quantization)
        needs = MemoryNeeds.of(Checkpoint(models), settings.dtype, kind)
        needs.plan(settings.gpu_memory_bytes, PLENTY_BYTES)
    except EngineUnavailable as error:
        return Need(0, str(error), is_refused=True)
    except (StepaudiodError, OSError) as error:
        return Need(0, str(error))
    return Need(needs.wanted_bytes(settings.gpu_memory_bytes))
