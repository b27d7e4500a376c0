"""A data folder with the smallest checkpoint, and the settings that suit it."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from stepaudiod.config import StepAudio
from stepaudiod.voice_library import VoiceLibrary
from tests.editx.trees import write_tree


def write_data(folder: Path) -> Path:
    """Write the checkpoint and one voice, `hum`."""
    (folder / "models").mkdir()
    write_tree(folder / "models", "micro")
    VoiceLibrary(folder / "voices").create("Hum", recording(folder / "hum.wav"), "a hum", "mine")
    return folder


def recording(path: Path) -> Path:
    t = np.arange(72000) / 24000
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 24000
    sound = sum(np.sin(k * phase) / k for k in range(1, 8)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", "not compressed"))
        file.writeframes((8000 * sound / np.abs(sound).max()).astype("<i2").tobytes())
    return path


def settings(**changes: Any) -> StepAudio:
    """Random weights make no speech: their output is taken as it is."""
    return StepAudio(**{"device": "cpu", "dtype": "fp32", "check_output": False} | changes)
