"""Step-Audio-EditX behind the whole daemon, on random weights: voices of the library, codes kept."""

from __future__ import annotations

import contextlib
import wave
from pathlib import Path

import httpx
import numpy as np
import pytest

from stepaudiod.engines.catalog import Catalog, describe_step_audio
from stepaudiod.engines.stepaudio import StepAudioEngine
from stepaudiod.errors import InvalidRequest, NotFound, Unsupported
from stepaudiod.model.pipeline import Pipeline, PipelineOptions
from stepaudiod.speech import SpeechRequest
from stepaudiod.voices import VoiceLibrary
from tests.conftest import StartDaemon
from tests.model.trees import write_tree


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the smallest checkpoint and one voice."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "models").mkdir()
    write_tree(folder / "models", "micro")
    VoiceLibrary(folder / "voices").create("Hum", recording(folder / "hum.wav"), "a hum", "mine")
    return folder


def recording(path: Path) -> Path:
    """Three seconds of something with a pitch."""
    t = np.arange(72000) / 24000
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 24000
    sound = sum(np.sin(k * phase) / k for k in range(1, 8)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", "not compressed"))
        file.writeframes((8000 * sound / np.abs(sound).max()).astype("<i2").tobytes())
    return path


def engine(data: Path) -> StepAudioEngine:
    description = describe_step_audio(data, "cpu", "fp32", "none")
    assert description.problem == ""
    loaded = StepAudioEngine(cache_dir=data, threads=1, **description.options)
    loaded.load(lambda stage, fraction: None)
    return loaded


def unchecked(loaded: StepAudioEngine) -> StepAudioEngine:
    """Random weights make no speech: take what they give."""
    options = PipelineOptions(is_output_checked=False, rows=2, length=2048)
    loaded._pipeline = Pipeline(loaded._pipeline.networks, options)
    return loaded


def test_a_voice_is_encoded_once_and_kept_beside_its_recording(data: Path) -> None:
    request = SpeechRequest("Hello there.", "hum", seed=1)
    first = np.concatenate(list(unchecked(engine(data)).speak(request)))
    kept = list((data / "voices" / "hum").glob("*.safetensors"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    again = np.concatenate(list(unchecked(engine(data)).speak(request)))
    assert np.array_equal(first, again)
    assert kept[0].stat().st_mtime_ns == before


def test_what_it_cannot_do_is_said(data: Path) -> None:
    loaded = engine(data)
    with pytest.raises(NotFound, match="hum"):
        next(iter(loaded.speak(SpeechRequest("Hello.", "nobody"))))
    with pytest.raises(Unsupported, match="pace"):
        next(iter(loaded.speak(SpeechRequest("Hello.", "hum", speed=2.0))))
    library = VoiceLibrary(data / "voices")
    library.create("mute", recording(data / "mute.wav"), "", "mine")
    with pytest.raises(InvalidRequest, match="transcript"):
        next(iter(loaded.speak(SpeechRequest("Hello.", "mute"))))
    library.delete("mute")


def test_auto_takes_it_when_weights_and_a_voice_are_there(data: Path, tmp_path: Path) -> None:
    ready = Catalog((describe_step_audio(data, "auto", "bf16", "none"),))
    assert ready.choose("auto").engine.name == "step-audio-editx"
    absent = describe_step_audio(tmp_path, "auto", "bf16", "none")
    assert "missing" in absent.problem or "holds no" in absent.problem


def test_the_daemon_loads_it_and_tells_how_far(start_daemon: StartDaemon, data: Path) -> None:
    daemon = start_daemon({"engine": "step-audio-editx", "data_dir": data, "step_audio.dtype": "fp32"})
    with daemon.client() as client:
        assert [voice["id"] for voice in client.get("/v1/voices").json()] == ["hum"]
        said = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav", "seed": 1}
        # random weights make no speech, and the engine may say so at any moment; the daemon lives
        with contextlib.suppress(httpx.RemoteProtocolError):
            assert client.post("/v1/audio/speech", json=said, timeout=300).status_code in (200, 500)
        assert client.get("/api/v1/models/status").json()["step-audio-editx"]["loaded"] is True
    daemon.notify.wait_for("STATUS=speaking to 1 · loading step-audio-editx")
