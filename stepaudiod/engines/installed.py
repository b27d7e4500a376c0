"""The engines of this installation: those in packages and those in the data folder."""

from __future__ import annotations

from pathlib import Path

from stepaudiod.config import Settings
from stepaudiod.engines.local_models import LocalEngines
from stepaudiod.engines.registry import BEST_FIRST, WHISPER_TINY, Catalog


def catalog_of(settings: Settings, data: Path | None = None) -> Catalog:
    """The engines, the best first; `data` is the configured folder by default."""
    voices_for = "" if settings.access.private_voices else None
    local = LocalEngines(data or settings.data_path, settings.step_audio, (WHISPER_TINY,), voices_for)
    return Catalog(BEST_FIRST, local)
