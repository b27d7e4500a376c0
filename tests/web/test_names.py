"""Names in clients' configurations: models, and lists of voices as other programs request them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from stepaudiod.web.model_names import meaning
from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav
from tests.web.test_speech import refused

SPEECH_NAMES = (
    "tts-1",
    "tts-1-hd",
    "TTS-1",
    "gpt-4o-mini-tts",
    "gpt-4o-mini-tts-2025-12-15",
    "gpt-4o-mini-tts-2031-01-31",
    "tts-1-1106",
    "tts-1-hd-1106",
    "openai/tts-1",
    "hexgrad/Kokoro-82M",
    "kokoro-82m",
    "mlx-community/Kokoro-82M-bf16",
)
TRANSCRIPTION_NAMES = (
    "whisper-1",
    "Whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize",
    "whisper-large-v3",
    "Systran/faster-whisper-small",
    "Systran/faster-distil-whisper-large-v3",
    "deepdml/faster-whisper-large-v3-turbo-ct2",
    "distil-whisper/distil-large-v3",
    "openai/whisper-tiny.en",
)


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon, tmp_path_factory: pytest.TempPathFactory) -> DaemonProcess:
    """The packaged engines, with the best of them selected."""
    return start_module_daemon({"engine": "auto", "data_dir": tmp_path_factory.mktemp("empty")})


@pytest.fixture
def client(awake: DaemonProcess) -> httpx.Client:
    return awake.shared_client


@pytest.fixture
def official(awake: DaemonProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{awake.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", SPEECH_NAMES)
def test_a_customary_name_of_a_speech_model_speaks(official: openai.OpenAI, name: str) -> None:
    speech = official.audio.speech.with_raw_response.create(model=name, voice="alloy", input="Hi.")
    serving = official.models.retrieve("tts-1").to_dict()["stands_for"]
    assert speech.headers["X-StepAudio-Model"] == serving
    model = official.models.retrieve(name)
    assert (model.id, model.to_dict()["stands_for"]) == (name, serving)


@pytest.mark.parametrize("name", TRANSCRIPTION_NAMES)
def test_a_customary_name_of_a_recogniser_transcribes(official: openai.OpenAI, name: str) -> None:
    quiet = ("quiet.wav", wav(0 * hum(0.5)))
    heard = official.audio.transcriptions.with_raw_response.create(model=name, file=quiet)
    assert heard.headers["X-StepAudio-Model"] == "whisper-tiny.en"
    assert official.models.retrieve(name).to_dict()["stands_for"] == "whisper-tiny.en"


def test_a_name_in_another_case_is_the_engines(client: httpx.Client) -> None:
    say = {"voice": "heart", "input": "Hi."}
    for name in ("HIBARI", "hibari", "someone/Hibari"):
        answer = client.post("/v1/audio/speech", json=say | {"model": name})
        assert answer.headers["X-StepAudio-Model"] == "hibari"


def test_a_dated_name_of_an_unknown_model_is_unknown(client: httpx.Client) -> None:
    for name in ("gpt-2-2025-12-15", "gpt-4o", "whisperer", "tts-2", "tts-1-hd-1", "a/b/c", "kokoros"):
        refused(client.get(f"/v1/models/{name}"), 404, "model", "There is no model")
        assert meaning(name) is None


def test_a_model_that_speaks_is_refused_for_a_transcript(client: httpx.Client) -> None:
    quiet = {"file": wav(0 * hum(0.5))}
    answer = client.post("/v1/audio/transcriptions", data={"model": "tts-1"}, files=quiet)
    refused(answer, 422, "model", "can't transcribe", "whisper-tiny.en")
    say = {"model": "whisper-1", "voice": "alloy", "input": "Hi."}
    refused(client.post("/v1/audio/speech", json=say), 422, "model", "can't speak", "hibari")


def test_openais_names_are_listed_after_the_engines(official: openai.OpenAI) -> None:
    models = [model.to_dict() for model in official.models.list().data]
    ids = [model["id"] for model in models]
    assert {"tts-1", "tts-1-hd", "gpt-4o-mini-tts", "whisper-1", "gpt-4o-transcribe"} <= set(ids)
    assert len(ids) == len(set(ids))
    is_other_name = ["stands_for" in model for model in models]
    assert is_other_name == sorted(is_other_name)
    assert sum("default" in model for model in models) == 1


# ---- lists as Open WebUI, AnythingLLM and VoiceMode read them


@pytest.mark.slow
def test_open_webui_finds_voices_and_models(client: httpx.Client) -> None:
    """Its `get_available_voices` and `get_available_models`."""
    found = {voice["id"]: voice["name"] for voice in client.get("/v1/audio/voices").json().get("voices", [])}
    assert found
    models = client.get("/v1/audio/models").json().get("models", [])
    assert "tts-1" in [model["id"] for model in models]
    assert "whisper-1" not in [model["id"] for model in models]
    for voice in found:
        say = {"model": "tts-1", "input": "Hi.", "voice": voice}
        assert client.post("/v1/audio/speech", json=say).headers["X-StepAudio-Voice"] == voice


def test_voicemode_finds_voices(client: httpx.Client) -> None:
    """Its `_discover_voices`: a dictionary with voices, each a name or an object with an id."""
    data = client.get("/v1/audio/voices").json()
    assert isinstance(data, dict)
    voices = [voice["id"] if isinstance(voice, dict) else voice for voice in data["voices"]]
    assert voices == [voice["id"] for voice in client.get("/v1/voices").json()]


def test_a_model_filters_both_lists(client: httpx.Client) -> None:
    for model in ("hibari", "HIBARI"):
        table = client.get("/v1/audio/voices", params={"model": model}).json()
        assert [voice["id"] for voice in table["data"]] == ["heart"]
        assert table["voices"] == [{"id": "heart", "name": "heart"}]
    everything = client.get("/v1/audio/voices").json()
    theirs = client.get("/v1/audio/voices", params={"model": "tts-1"}).json()["voices"]
    assert theirs == everything["voices"]
    assert len(everything["data"]) >= len(theirs)
    assert client.get("/v1/audio/voices", params={"model": "whisper-1"}).json()["voices"] == []
    assert client.get("/v1/voices", params={"model": "tts-1"}).json()[0]["id"] == theirs[0]["id"]
    refused(client.get("/v1/audio/voices", params={"model": "gpt-2"}), 404, "model", "gpt-2")


def test_a_voice_that_was_made_is_listed_where_its_model_speaks(
    step_audio: DaemonProcess, client: httpx.Client
) -> None:
    made = step_audio.shared_client.get("/v1/audio/voices").json()
    assert made["voices"] == [{"id": "hum", "name": "Hum"}]
    assert {voice["id"] for voice in made["data"]} > {"hum"}
    own = step_audio.shared_client.get("/v1/audio/voices", params={"model": "step-audio-editx"}).json()
    assert [voice["id"] for voice in own["data"]] == ["hum"]
    hibari = step_audio.shared_client.get("/v1/audio/voices", params={"model": "hibari"}).json()
    assert [voice["id"] for voice in hibari["data"]] == ["heart"]
