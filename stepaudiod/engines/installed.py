"""The engines of this installation: those in packages and those in the data folder."""

from __future__ import annotations

from pathlib import Path

from stepaudiod.config import Settings
from stepaudiod.engines.local_models import LocalEngines
from stepaudiod.engines.registry import BEST_FIRST, WHISPER_TINY, Catalog


def catalog_of(settings: Settings, problem: str = "") -> Catalog:
    """The engines, the best first; for `problem` see `LocalEngines`."""
    models = settings.models_dir if isinstance(settings.models_dir, Path) else None
    voices_for = "" if settings.access.private_voices else None
    local = LocalEngines(
        settings.data_path, settings.step_audio, (WHISPER_TINY,), voices_for, models, problem
    )
    return Catalog(BEST_FIRST, local)
