"""Where the recogniser of a model on a GPU runs, and how often it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from stepaudiod.audio.decode import decode
from stepaudiod.edits import Edit
from stepaudiod.engines.base import Clip, Transcribing
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.engines.local_models import LocalEngines
from stepaudiod.engines.step_audio.engine import StepAudioEngine
from stepaudiod.engines.step_audio.recogniser import Recogniser
from stepaudiod.errors import InvalidRequest
from stepaudiod.requests import EditRequest, Recording, TranscriptionRequest
from stepaudiod.worker.decoder_process import Decoders
from stepaudiod.worker.loaded import LoadedEngines
from stepaudiod.worker.protocol import EngineDropped, EngineLoaded, EngineOrder, ToFront
from tests.editx.trees import write_tree
from tests.engines.conftest import Say
from tests.engines.step_audio import settings
from tests.engines.test_whisper_transformers import write_model

SIZE = 1_000_000


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(SIZE))
    return path


def order_of(weights: Path, **options: Any) -> dict[str, Any]:
    return {
        "name": "whisper-tiny",
        "factory": "stepaudiod.engines.whisper.transformers:WhisperEngine",
        "options": {"folder": str(weights.parent)} | options,
        "files": [str(weights)],
        "languages": ["en", "zh"],
    }


@pytest.fixture
def told() -> list[ToFront]:
    """What the worker's engines report to the front."""
    return []


@pytest.fixture
def engines(tmp_path: Path, told: list[ToFront]) -> LoadedEngines:
    return LoadedEngines(tmp_path, 1, told.append, Decoders().decode)


def test_a_recogniser_on_the_gpu_is_reserved_memory(weights: Path, engines: LoadedEngines) -> None:
    assert Recogniser(order_of(weights, device="auto"), engines).reserve_gpu(SIZE) == SIZE


def test_what_runs_on_the_processor_anyway_takes_nothing(weights: Path, engines: LoadedEngines) -> None:
    assert Recogniser(order_of(weights), engines).reserve_gpu(0) == 0
    assert Recogniser(order_of(weights, device="cpu"), engines).reserve_gpu(0) == 0


def test_a_full_gpu_leaves_it_the_processor_for_transcriptions_too(
    tmp_path: Path, engines: LoadedEngines, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path)
    order = order_of(tmp_path / "model.safetensors", device="cuda", name="whisper-tiny")
    key = engine_order(order).key
    with caplog.at_level("INFO"):
        assert Recogniser(order, engines).reserve_gpu(10) == 0
    assert "whisper-tiny will run on the CPU" in caplog.text
    assert engine_order(order).key == key  # else it would be loaded anew for each request
    recogniser = engines.recogniser(order)
    assert engines.get(engine_order(order)) is recogniser
    assert engines.is_loaded(order)


def test_an_edit_and_a_transcription_share_one_whisper(
    tmp_path: Path, told: list[ToFront], hibari: HibariEngine, say: Say
) -> None:
    (tmp_path / "models").mkdir()
    write_tree(tmp_path / "models", "micro")
    folder = tmp_path / "models" / "whisper-small"
    folder.mkdir()
    write_model(folder)
    model, whisper = (EngineOrder.of(each) for each in LocalEngines(tmp_path, settings()).describe())
    engines = LoadedEngines(tmp_path, 1, told.append, decode)
    clip = Clip(say(hibari, "The salt breeze came across from the sea.", "heart"), hibari.sample_rate)
    step_audio = cast("StepAudioEngine", engines.get(model))
    with pytest.raises(InvalidRequest, match=r"whisper-small .* Send its transcript") as refusal:
        list(step_audio.edit(EditRequest(Recording("unused.wav"), Edit("emotion", "happy"), 1), clip))
    assert refusal.value.param == "transcript"
    transcribing = cast("Transcribing", engines.get(whisper))
    list(transcribing.transcribe(TranscriptionRequest(Recording("unused.wav")), clip))
    loaded = [frame.engine for frame in told if isinstance(frame, EngineLoaded)]
    assert loaded == ["step-audio-editx", "whisper-small"]
    assert not [frame for frame in told if isinstance(frame, EngineDropped)]


def test_a_recogniser_is_loaded_beside_another_whisper_and_stays(
    tmp_path: Path, told: list[ToFront], engines: LoadedEngines
) -> None:
    """A request may be using the other one, and alternating requests must not load gigabytes each time."""
    orders = []
    for name in ("whisper-small", "whisper-large", "whisper-base"):
        (tmp_path / name).mkdir()
        write_model(tmp_path / name)
        orders.append(order_of(tmp_path / name / "model.safetensors") | {"name": name})
    small, large, base = orders
    used = engines.get(engine_order(small))
    recogniser = engines.recogniser(large)
    assert engines.get(engine_order(small)) is used
    engines.get(engine_order(base))
    assert engines.recogniser(large) is recogniser
    assert [frame.engine for frame in told if isinstance(frame, EngineDropped)] == ["whisper-small"]


def engine_order(table: dict[str, Any]) -> EngineOrder:
    return EngineOrder(table["name"], table["factory"], table["options"], tuple(table["files"]))
