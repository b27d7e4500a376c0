"""The engines of this installation: what packages bring, and what lies in the data folder."""

from __future__ import annotations

from pathlib import Path

from stepaudiod.config import Settings
from stepaudiod.engines.catalog import BEST_FIRST, WHISPER_TINY, Catalog
from stepaudiod.engines.pulled import PulledEngines


def catalog_of(settings: Settings, data: Path | None = None) -> Catalog:
    """The engines, the best first.

    Args:
        settings: the configuration.
        data: has `models` and `voices` in it; None is where the settings say.
    """
    voices_for = "" if settings.access.private_voices else None
    pulled = PulledEngines(data or settings.data_path, settings.step_audio, (WHISPER_TINY,), voices_for)
    return Catalog(BEST_FIRST, pulled)
