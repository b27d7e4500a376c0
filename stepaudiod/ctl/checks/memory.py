"""The GPU memory that the model needs, by the plan that the engine itself makes; in a process of its own.

`python -m stepaudiod.ctl.checks.memory` imports torch and makes the plan; what asks it imports none.
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
PLENTY_BYTES = 1 << 50
"""Of a card that has room for everything: then only what is configured can be too little."""


@dataclass(frozen=True)
class Need:
    """What the model needs of a GPU.

    Attributes:
        free_bytes: must be free before it is loaded; 0 where that isn't known.
        trouble: why it isn't, or why the configured size is too little.
        is_refused: whether it is the latter.
    """

    free_bytes: int
    trouble: str = ""
    is_refused: bool = False


def ask(models: Path, settings: StepAudio) -> Need:
    """Have the plan made.

    Args:
        models: holds both published folders.
        settings: what is configured of the model.
    """
    command = [sys.executable, "-m", __name__, str(models), settings.model_dump_json()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        return Need(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Need(0, f"the plan could not be made: {error}")


def main() -> None:
    """Make the plan as the engine does, with the rights of the user that owns the files."""
    from stepaudiod.ctl.hub.catalog import FOLDERS
    from stepaudiod.ctl.owner import act_as_owner

    models, settings = Path(sys.argv[1]), StepAudio.model_validate_json(sys.argv[2])
    try:
        act_as_owner(models, FOLDERS)
        need = _plan(models, settings)
    except EngineUnavailable as error:
        need = Need(0, str(error), is_refused=True)
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
    needs.plan(settings.gpu_memory_bytes, PLENTY_BYTES)
    return Need(needs.wanted_bytes(settings.gpu_memory_bytes))


if __name__ == "__main__":
    main()
