"""All audio is marked as synthetic in its first bytes and in the response's header, with the model."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path

import av
import httpx
import pytest

from stepaudiod.audio.formats import MEDIA_TYPES
from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav

HUM = wav(hum())
SAY = {"model": "hibari", "voice": "heart", "input": "Hello there.", "seed": 5}
BARE = ("aac", "pcm")
"""Formats without a container."""
GENERATED, EDITED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"


@pytest.fixture
def client(step_audio: DaemonProcess) -> httpx.Client:
    return step_audio.shared_client


def metadata(data: bytes) -> dict[str, str]:
    """The metadata that FFmpeg finds, with names in capitals."""
    with av.open(io.BytesIO(data)) as container:
        found = container.streams.audio[0].metadata | container.metadata
    return {name.upper(): value for name, value in found.items()}


def say(client: httpx.Client, **changes: object) -> httpx.Response:
    response = client.post("/v1/audio/speech", json=SAY | changes, timeout=300)
    assert response.status_code == 200, response.text
    return response


def require_mark(data: bytes, how: str, model: str, source_type: str) -> None:
    found = metadata(data)
    assert found.get("SYNTHETIC", found.get("ISYN")) == f"{how}; model={model}"
    iptc = found.get("DIGITALSOURCETYPE", found.get("ISRF", ""))
    assert iptc == f"http://cv.iptc.org/newscodes/digitalsourcetype/{source_type}"
    assert "Synthetic speech" in found["COMMENT"]
    assert model in found["COMMENT"]


@pytest.mark.parametrize("response_format", MEDIA_TYPES)
def test_speech_is_marked_in_every_format(client: httpx.Client, response_format: str) -> None:
    response = say(client, response_format=response_format)
    assert response.headers["X-StepAudio-Synthetic"] == "generated; model=hibari"
    if response_format not in BARE:
        require_mark(response.content, "generated", "hibari", GENERATED)
        assert b"generated; model=hibari" in response.content[:1000]


@pytest.mark.parametrize("response_format", MEDIA_TYPES)
def test_the_same_seed_gives_the_same_bytes(client: httpx.Client, response_format: str) -> None:
    again = [say(client, response_format=response_format).content for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize("response_format", MEDIA_TYPES)
def test_the_same_seed_of_an_edit_gives_the_same_bytes(client: httpx.Client, response_format: str) -> None:
    form = {"mode": "denoise", "model": "studio", "response_format": response_format, "seed": "5"}
    answers = [client.post("/v1/audio/edits", data=form, files={"file": ("hum.wav", HUM)}) for _ in range(2)]
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].content == answers[1].content


def test_streams_of_opus_can_be_joined(client: httpx.Client) -> None:
    """Each needs its own serial number: RFC 3533, section 4."""
    texts: list[dict[str, object]] = [
        {"input": "Hello."},
        {"input": "Goodbye."},
        {"seed": 6},
        {"seed": None},
        {"seed": None},
    ]
    serials = {say(client, response_format="opus", **text).content[14:18] for text in texts}
    assert len(serials) == len(texts)


@pytest.mark.parametrize("response_format", [name for name in MEDIA_TYPES if name not in BARE])
def test_events_carry_the_same_bytes(client: httpx.Client, response_format: str) -> None:
    whole = say(client, response_format=response_format)
    events = say(client, response_format=response_format, stream_format="sse")
    told = [json.loads(line.removeprefix("data: ")) for line in events.text.splitlines() if line]
    assert b"".join(base64.b64decode(each.get("audio", "")) for each in told) == whole.content
    assert events.headers["X-StepAudio-Synthetic"] == "generated; model=hibari"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["step-audio-editx", "studio"])
@pytest.mark.parametrize("response_format", ["wav", "mp3"])
def test_an_edited_recording_is_marked_as_edited(
    client: httpx.Client, model: str, response_format: str
) -> None:
    form = {"mode": "denoise", "model": model, "response_format": response_format, "seed": "1"}
    response = client.post("/v1/audio/edits", data=form, files={"file": ("hum.wav", HUM)}, timeout=300)
    assert response.status_code == 200, response.text
    assert response.headers["X-StepAudio-Synthetic"] == f"edited; model={model}"
    require_mark(response.content, "edited", model, EDITED)


def test_the_old_form_and_its_uploads_are_marked(client: httpx.Client) -> None:
    cloned = {"input": "Hello there.", "seed": 1, "step_audio": {"mode": "clone"}}
    response = client.post("/v1/audio/speech", json=cloned, timeout=300)
    require_mark(response.content, "generated", "step-audio-editx", GENERATED)
    payload = {"model": "studio", "input": "", "step_audio": {"mode": "denoise"}, "response_format": "flac"}
    files = {"input_audio_file": ("a.wav", HUM)}
    form = {"payload": json.dumps(payload)}
    response = client.post("/v1/audio/speech/upload", data=form, files=files, timeout=300)
    assert response.headers["X-StepAudio-Synthetic"] == "edited; model=studio"
    require_mark(response.content, "edited", "studio", EDITED)


def test_a_wav_with_a_mark_opens_in_python(client: httpx.Client) -> None:
    content = say(client, response_format="wav").content
    pcm = say(client, response_format="pcm").content
    with wave.open(io.BytesIO(content)) as file:
        assert file.readframes(len(content)) == pcm


def test_marks_can_be_switched_off(start_daemon: StartDaemon, data: Path) -> None:
    daemon = start_daemon({"engine": "auto", "data_dir": data, "marking.metadata": "false"})
    with daemon.client() as client:
        for response_format in MEDIA_TYPES:
            response = say(client, response_format=response_format)
            assert "X-StepAudio-Synthetic" not in response.headers
            assert b"hibari" not in response.content
            assert b"digitalsourcetype" not in response.content
