"""Which engine is chosen when Step-Audio-EditX is there, is not, or is incomplete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepaudiod.engines.local_models import LocalEngines
from stepaudiod.engines.registry import BEST_FIRST, WHISPER_TINY, Catalog
from stepaudiod.errors import EngineUnavailable, NotFound
from stepaudiod.voice_library import VoiceLibrary
from tests.engines.step_audio import settings, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_auto_takes_it_for_what_it_can_do_at_the_moment(data: Path, tmp_path: Path) -> None:
    ready = Catalog(BEST_FIRST, LocalEngines(data, settings()))
    assert ready.choose("auto").engine.name == "step-audio-editx"
    assert ready.choose("auto", "emotion").engine.name == "step-audio-editx"
    os.symlink(data / "models", tmp_path / "models")
    voiceless = Catalog(BEST_FIRST, LocalEngines(tmp_path, settings()))
    assert voiceless.choose("auto", "clone").engine.name == "step-audio-editx"
    choice = voiceless.choose("auto")
    assert choice.engine.name != "step-audio-editx"
    assert "no voice yet" in choice.reason
    VoiceLibrary(tmp_path / "voices").create("Hum", data / "hum.wav", "a hum", "mine")
    assert voiceless.choose("auto").engine.name == "step-audio-editx"


def test_without_weights_it_says_how_to_have_them(tmp_path: Path) -> None:
    empty = Catalog(BEST_FIRST, LocalEngines(tmp_path, settings()))
    with pytest.raises(EngineUnavailable, match="models pull"):
        empty.choose("auto", "emotion")
    with pytest.raises(EngineUnavailable, match="models pull"):
        empty.get("step-audio-editx")
    with pytest.raises(NotFound, match="no model"):
        empty.get("step-audio-editx-int3")


def test_a_model_that_is_copied_by_hand_is_noticed_when_it_is_whole(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "models", tmp_path / "models")
    whole = next((tmp_path / "models" / "Step-Audio-Tokenizer").rglob("model.pt"))
    content = whole.read_bytes()
    whole.write_bytes(content[:1000])
    catalog = Catalog(BEST_FIRST, LocalEngines(tmp_path, settings()))
    with pytest.raises(EngineUnavailable, match=r"model\.pt"):
        catalog.get("step-audio-editx")
    whole.write_bytes(content)
    assert catalog.get("step-audio-editx").name == "step-audio-editx"


def test_looking_whether_anything_has_changed_opens_no_file(data: Path) -> None:
    """The front looks at least once a second: it must not read an index of hundreds of tensors for that."""
    program = """
import sys
from pathlib import Path
from stepaudiod.config import Settings
from stepaudiod.engines.installed import catalog_of
data = Path(sys.argv[1])
catalog = catalog_of(Settings(data_dir=data))
before = catalog.engines
opened = []
sys.addaudithook(lambda event, given: opened.append(given[0]) if event == "open" else None)
assert catalog.engines is before
assert not opened, opened
(data / "models" / "whisper-tiny").mkdir()
(data / "models" / "whisper-tiny" / "model.safetensors").touch()
assert "whisper-tiny" in [engine.name for engine in catalog.engines]
"""
    shutil.copytree(data, data.parent / "copied")
    done = subprocess.run(
        [sys.executable, "-c", program, data.parent / "copied"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_a_configured_engine_cannot_do_others_do(tmp_path: Path) -> None:
    empty = Catalog(BEST_FIRST, LocalEngines(tmp_path, settings()))
    assert empty.choose("step-audio-editx", "transcribe").engine.name == WHISPER_TINY.name
    with pytest.raises(EngineUnavailable, match="models pull"):
        empty.choose("step-audio-editx")
