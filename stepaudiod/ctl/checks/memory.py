"""The GPU memory that the model needs, by the engine's own plan. Imports no torch.

`python -m stepaudiod.ctl.checks.memory` makes the plan: a child process can give up root's rights for good.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from stepaudiod.config import StepAudio
from stepaudiod.ctl.hub.catalog import FOLDERS
from stepaudiod.ctl.privileges import become_owner
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.memory_plan import MemoryNeeds
from stepaudiod.errors import EngineUnavailable, StepaudiodError

TIMEOUT_S = 120.0
UNLIMITED_BYTES = 1 << 50
"""Assumed free GPU memory, so that only the configured size can be too small."""


@dataclass(frozen=True)
class Need:
    """The GPU memory that must be free before the model is loaded; 0 if unknown, and `error` says why."""

    free_bytes: int
    error: str = ""
    is_too_small: bool = False


def gpu_need(models: Path, settings: StepAudio) -> Need:
    """Make the plan in a child process, with the rights of the user that owns the files."""
    command = [sys.executable, "-P", "-m", __name__, str(models), settings.model_dump_json()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        return Need(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Need(0, f"the plan could not be made: {error}")


def _plan(models: Path, settings: StepAudio) -> Need:
    try:
        become_owner(models, FOLDERS)
        kind = Quantization.named(settings.quantization)
        needs = MemoryNeeds.of(Checkpoint(models), settings.dtype, kind)
        needs.plan(settings.gpu_memory_bytes, UNLIMITED_BYTES)
    except EngineUnavailable as error:
        return Need(0, str(error), is_too_small=True)
    except (StepaudiodError, OSError) as error:
        return Need(0, str(error))
    return Need(needs.wanted_bytes(settings.gpu_memory_bytes))


if __name__ == "__main__":
    print(json.dumps(asdict(_plan(Path(sys.argv[1]), StepAudio.model_validate_json(sys.argv[2])))))
