"""Daemons that the tests of this folder share, and recordings for them."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import httpx
import numpy as np
import pytest

from stepaudiod.voice_library import VoiceLibrary
from tests.activation import DaemonProcess
from tests.checkpoints import write_checkpoint
from tests.conftest import StartDaemon


def wav(waveform: np.ndarray, rate: int = 24_000) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        writer.writeframes((np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def hum(seconds: float = 3.0, rate: int = 24_000) -> np.ndarray:
    """A waveform with a pitch."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
    sound = sum(np.sin(k * phase) / k for k in range(1, 8)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    return np.asarray(0.25 * sound / np.abs(sound).max(), np.float32)


def samples(response: httpx.Response) -> np.ndarray:
    """The samples of a WAV response, whose header has no length."""
    assert response.status_code == 200, response.text
    return np.frombuffer(response.content.partition(b"data\xff\xff\xff\xff")[2], "<i2")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the smallest checkpoint and one voice."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "models").mkdir()
    write_checkpoint(folder / "models")
    (folder / "hum.wav").write_bytes(wav(hum()))
    VoiceLibrary(folder / "voices").create("Hum", folder / "hum.wav", "a hum", "mine")
    return folder


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The daemon's folder of uploads."""
    return tmp_path_factory.mktemp("spool")


@pytest.fixture(scope="module")
def step_audio(start_module_daemon: StartDaemon, data: Path, spool: Path) -> DaemonProcess:
    """A daemon with Step-Audio-EditX on random weights, whose output isn't checked."""
    settings: dict[str, object] = {
        "engine": "auto",
        "threads": 1,  # two that wait for each other are slow on a busy machine
        "data_dir": data,
        "step_audio.dtype": "fp32",
        "step_audio.check_output": "false",
    }
    return start_module_daemon(settings, environ={"TMPDIR": str(spool)})
