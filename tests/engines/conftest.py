"""Loaded engines, once for all tests of this folder: loading is not what most of them are about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.engines.kokoro.engine import KokoroEngine
from stepaudiod.engines.registry import KOKORO, Catalog
from stepaudiod.requests import SpeechRequest

Say = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def hibari(cache_dir: Path) -> HibariEngine:
    engine = HibariEngine(cache_dir=cache_dir, threads=1)
    engine.load(lambda stage, done: None)
    return engine


@pytest.fixture(scope="session")
def kokoro(cache_dir: Path) -> KokoroEngine:
    if KOKORO not in Catalog().installed():
        pytest.skip(f"kokoro is not installed: {KOKORO.install}")
    engine = KokoroEngine(cache_dir=cache_dir, threads=1)
    engine.load(lambda stage, done: None)
    return engine


@pytest.fixture(scope="session")
def engines(
    hibari: HibariEngine, request: pytest.FixtureRequest
) -> Callable[[str], HibariEngine | KokoroEngine]:
    return lambda name: hibari if name == "hibari" else request.getfixturevalue("kokoro")


@pytest.fixture(scope="session")
def say() -> Say:

    def speak(
        engine: HibariEngine | KokoroEngine, text: str, voice: str, speed: float = 1.0, seed: int | None = 0
    ) -> np.ndarray:
        return np.concatenate(list(engine.speak(SpeechRequest(text, voice, speed, seed))))

    return speak
