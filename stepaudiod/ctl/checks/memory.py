"""The GPU memory that the model needs, by the engine's own plan.

`python -m stepaudiod.ctl.checks.memory` imports torch and makes the plan in a child process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from stepaudiod.config import StepAudio
from stepaudiod.errors import EngineUnavailable, StepaudiodError

TIMEOUT_S = 120.0
UNLIMITED_BYTES = 1 << 50
"""Assumed free GPU memory, so that only the configured size can be too small."""


@dataclass(frozen=True)
class Need:
    """The GPU memory that the model needs.

    Attributes:
        free_bytes: must be free before the model is loaded; 0 if unknown.
        error: why it is unknown, or why the configured size is too small.
        is_too_small: whether the configured size is too small.
    """

    free_bytes: int
    error: str = ""
    is_too_small: bool = False


def ask(models: Path, settings: StepAudio) -> Need:
    """Make the plan in a child process, for the models below a folder."""
    command = [sys.executable, "-m", __name__, str(models), settings.model_dump_json()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        return Need(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Need(0, f"the plan could not be made: {error}")


def main() -> None:
    """Make the plan as the engine does, with the rights of the user that owns the files."""
    from stepaudiod.ctl.hub.catalog import FOLDERS
    from stepaudiod.ctl.privileges import become_owner

    models, settings = Path(sys.argv[1]), StepAudio.model_validate_json(sys.argv[2])
    try:
        become_owner(models, FOLDERS)
        need = _plan(models, settings)
    except EngineUnavailable as error:
        need = Need(0, str(error), is_too_small=True)
    except (StepaudiodError, OSError, ImportError) as error:
        need = Need(0, str(error))
    print(json.dumps(asdict(need)))


def _plan(models: Path, settings: StepAudio) -> Need:
    import torch

    from stepaudiod.editx.checkpoint.layout import Checkpoint
    from stepaudiod.editx.lm.quantize import Quantization
    from stepaudiod.editx.memory_plan import MemoryNeeds

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[settings.dtype]
    needs = MemoryNeeds.of(Checkpoint(models), dtype, Quantization.named(settings.quantization))
    needs.plan(settings.gpu_memory_bytes, UNLIMITED_BYTES)
    return Need(needs.wanted_bytes(settings.gpu_memory_bytes))


if __name__ == "__main__":
    main()
