"""Quantizing the language model, and its use by the daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from stepaudiod.config import StepAudio
from stepaudiod.engines.local_models import LocalEngines
from stepaudiod.engines.step_audio.engine import StepAudioEngine
from stepaudiod.requests import SpeechRequest
from stepaudiod.voice_library import VoiceLibrary
from tests.ctl.conftest import Ctl
from tests.editx.trees import write_tree
from tests.web.conftest import hum, wav


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    write_tree(tmp_path / "models", "micro")
    (tmp_path / "hum.wav").write_bytes(wav(hum()))
    VoiceLibrary(tmp_path / "voices").create("Hum", tmp_path / "hum.wav", "a hum", "mine")
    return tmp_path


def ctl() -> Ctl:
    return Ctl((), os.environ["PATH"])


def say(data: Path, quantization: str) -> np.ndarray:
    settings = StepAudio.model_validate(
        {"device": "cpu", "quantization": quantization, "check_output": False}
    )
    (description,) = LocalEngines(data, settings).describe()
    engine = StepAudioEngine(cache_dir=data, threads=1, **description.options)
    engine.load(lambda stage, fraction: None)
    said = engine.speak(SpeechRequest("Hello.", "hum", seed=1))
    return np.concatenate([part for part in said if isinstance(part, np.ndarray)])


@pytest.mark.slow
def test_what_was_written_speaks_like_what_is_quantized_at_load(data: Path) -> None:
    at_load = say(data, "int8")
    told = json.loads(ctl().ok("models", "quantize", "int8", "--in", str(data / "models"), "--json"))
    assert Path(told["path"]).is_relative_to(data / "models" / "Step-Audio-EditX-quantized")
    assert told["size_bytes"] < told["full_bytes"]
    assert 0 < told["logits_error"] < 0.2
    assert told["agreement"] > 0.5
    assert np.array_equal(at_load, say(data, "int8"))


def test_without_the_model_it_says_how_to_have_it(tmp_path: Path) -> None:
    done = ctl().run("models", "quantize", "int4", "--in", str(tmp_path))
    assert done.returncode == 4
    assert b"stepaudioctl models pull" in done.stderr
