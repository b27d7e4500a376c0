"""A client that openapi-python-client generates from the document, at work against the daemon."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.activation import DEADLINE_S, DaemonProcess
from tests.web.conftest import hum, wav

MOST_MODELS = 80
"""The document has about 45 schemas; enumerations and free-form objects become models too."""


class Generated:
    """The generated package, and its client for one daemon."""

    def __init__(self, daemon: DaemonProcess, folder: Path) -> None:
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
        command += ["--url", f"{daemon.url}/openapi.json", "--output-path", str(folder / "generated")]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # for ruff, which formats it
        done = subprocess.run(
            command, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.output = done.stdout + done.stderr
        self.folder = folder / "generated"
        self.types = importlib.import_module("generated.types")
        self.models = importlib.import_module("generated.models")
        self.client = importlib.import_module("generated.client").Client(
            base_url=daemon.url, timeout=DEADLINE_S
        )

    def call(self, operation: str, **arguments: object) -> Any:
        """The answer of an operation, by the name of its module."""
        module = importlib.import_module(f"generated.api.{operation}")
        return module.sync_detailed(client=self.client, **arguments)

    def recording(self) -> Any:
        return self.types.File(io.BytesIO(wav(hum())), "hum.wav", "audio/wav")


@pytest.fixture(scope="module")
def generated(step_audio: DaemonProcess, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("client")
    sys.path.insert(0, str(folder))
    try:
        generated = Generated(step_audio, folder)
        with generated.client:
            yield generated
    finally:
        sys.path.remove(str(folder))


def test_it_is_generated_without_a_warning_and_small(generated: Generated) -> None:
    assert "WARNING" not in generated.output
    assert len(list((generated.folder / "models").glob("*.py"))) < MOST_MODELS


def test_it_lists_models(generated: Generated) -> None:
    answer = generated.call("models.list_models")
    assert answer.status_code == 200
    assert "step-audio-editx" in [model.id for model in answer.parsed.data]


def test_it_speaks(generated: Generated) -> None:
    say = generated.models.SpeechForm(
        model="hibari",
        voice="heart",
        input_="Hi.",
        response_format=generated.models.SpeechFormResponseFormat.WAV,
    )
    answer = generated.call("speech.create_speech", body=say)
    assert answer.status_code == 200
    assert answer.parsed.payload.read().startswith(b"RIFF")


def test_it_uploads_a_recording_to_change(generated: Generated) -> None:
    change = generated.models.EditForm(
        file=generated.recording(), mode="speed", edit_info="faster", transcript="a hum", seed=1
    )
    answer = generated.call("edits.create_edit", body=change)
    assert answer.status_code == 200, answer.content
    assert answer.parsed.payload.read().startswith(b"RIFF")


def test_it_keeps_a_voice(generated: Generated) -> None:
    form = generated.models.VoiceForm(
        audio_sample=generated.recording(), name="Generated", consent="mine", transcript="a hum"
    )
    assert generated.call("voices.create_voice", body=form).parsed.id == "generated"
    assert "generated" in [voice.id for voice in generated.call("voices.list_voices").parsed.data]
    assert generated.call("voices.delete_voice", id="generated").parsed.deleted is True


def test_it_knows_errors(generated: Generated) -> None:
    say = generated.models.SpeechForm(model="no-such-model", voice="heart", input_="Hi.")
    answer = generated.call("speech.create_speech", body=say)
    assert answer.status_code == 404
    assert isinstance(answer.parsed, generated.models.Error)
    assert answer.parsed.error.param == "model"
