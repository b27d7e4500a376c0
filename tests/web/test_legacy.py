"""Requests of the old containers, replayed: each endpoint and example, and the engine that serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from stepaudiod.voice_library import VoiceLibrary
from stepaudiod.web.legacy import is_old
from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import samples
from tests.web.old_client import CLONE, EMOTION, HUM, IN_BASE64, SPEECH, UPLOAD, ask, change, refused, same


@pytest.fixture(scope="module")
def both_ports(start_module_daemon: StartDaemon, data: Path) -> DaemonProcess:
    """Step-Audio-EditX as in the old containers: the page's port, and one for the API only."""
    settings = {
        "engine": "auto",
        "threads": 1,
        "data_dir": data,
        "step_audio.dtype": "fp32",
        "allow_url_fetch": "true",
    }
    return start_module_daemon({**settings, "step_audio.check_output": "false"}, roles=("http", "api"))


@pytest.fixture(scope="module")
def embedded(start_module_daemon: StartDaemon, tmp_path_factory: pytest.TempPathFactory) -> DaemonProcess:
    """A daemon without Step-Audio-EditX."""
    return start_module_daemon({"engine": "auto", "threads": 1, "data_dir": tmp_path_factory.mktemp("empty")})


@pytest.fixture
def client(step_audio: DaemonProcess) -> httpx.Client:
    return step_audio.shared_client


# ---- what the old documents show, on both ports


@pytest.mark.parametrize("role", ["http", "api"])
def test_every_legacy_endpoint_answers_on_both_ports(both_ports: DaemonProcess, role: str) -> None:
    with both_ports.client(role) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        models = client.get("/v1/models").json()["data"]
        assert {"id", "object", "owned_by"} <= set(models[0])
        assert models[0]["id"] == "step-audio-editx"
        (voice,) = client.get("/v1/voices").json()
        assert {"id", "description", "prompt_audio", "prompt_text", "locale", "gender"} <= set(voice)
        assert all(isinstance(voice[name], str) for name in ("prompt_audio", "prompt_text", "locale"))
        tags = client.get("/v1/tags").json()["data"]
        assert {"emotion", "style", "speed", "denoise", "vad", "paralinguistic"} <= set(tags)
        for variant in ("base", "awq", "bnb"):
            status = client.get("/api/v1/models/status").json()[variant]
            assert set(status) >= {
                "loaded", "auto_unload", "idle_timeout", "idle_time", "time_until_unload",
                "gpu_memory_allocated_gb", "gpu_memory_reserved_gb",
            }  # fmt: skip
            assert client.post(f"/api/v1/models/{variant}/unload").json()["unloaded"] is False


BOTH_PORTS = ["http", pytest.param("api", marks=pytest.mark.slow)]
EXAMPLES: dict[str, dict[str, Any]] = {
    "5.1 a preset": {"voice": "happy_en", "step_audio": {"mode": "clone", "prompt_text": "You know."}},
    "5.2 a voice of one's own": {"response_format": "mp3", "step_audio": CLONE},
    "5.3 intensity": {"step_audio": {**EMOTION, "intensity": 2.3, "input_audio_base64": IN_BASE64}},
    "5.6 style": {
        "step_audio": {
            "mode": "style",
            "edit_info": "formal",
            "audio_text": "a hum",
            "input_audio_base64": IN_BASE64,
        }
    },
    "5.7 paralinguistic": {
        "input": "[Laughter] a hum [Sigh]",
        "step_audio": {
            "mode": "paralinguistic",
            "edit_info": "storytelling",
            "audio_text": "a hum",
            "input_audio_base64": IN_BASE64,
        },
    },
    "5.7 without a tag": {
        "input": "More laughter, please.",
        "step_audio": {"mode": "paralinguistic", "audio_text": "a hum", "input_audio_base64": IN_BASE64},
    },
    "5.8 vad": {"input": "去除所有空白段落", "step_audio": {"mode": "vad", "input_audio_base64": IN_BASE64}},
    "5.8 denoise": {"step_audio": {"mode": "denoise", "input_audio_base64": IN_BASE64}},
    "5.9 speed": {
        "step_audio": {
            "mode": "speed",
            "edit_info": "0.8x",
            "audio_text": "a hum",
            "input_audio_base64": IN_BASE64,
        }
    },
    "4 metadata": {
        "voice": "story_teller",
        "response_format": "flac",
        "metadata": {"request_id": "demo-001"},
        "step_audio": {"mode": "clone"},
    },
}

WARNINGS = {
    "5.6 style": "'formal' is taken as the style serious",
    "5.7 without a tag": "the input has no tag",
}


@pytest.mark.parametrize("role", BOTH_PORTS)
@pytest.mark.parametrize("number", EXAMPLES)
def test_every_example_of_the_old_manual_gives_audio_on_both_ports(
    both_ports: DaemonProcess, role: str, number: str
) -> None:
    example = EXAMPLES[number]
    with both_ports.client(role) as client:
        response = ask(client, **example)
    assert response.status_code == 200, response.text
    kind = example.get("response_format", "wav").replace("mp3", "mpeg")
    assert response.headers["content-type"] == f"audio/{kind}"
    assert response.headers["X-StepAudio-Model"] == "step-audio-editx"
    assert len(response.content) > 1000
    assert WARNINGS.get(number, "") in response.headers.get("X-StepAudio-Warning", "")
    for name, value in example.get("metadata", {}).items():
        assert response.headers[f"x-metadata-{name}"] == value


@pytest.mark.slow
@pytest.mark.parametrize("role", ["http", "api"])
def test_uploads_are_the_same_request_with_files(both_ports: DaemonProcess, role: str) -> None:
    payload = {"model": "step-audio-editx", "seed": 1, "input": "更开心。", "step_audio": EMOTION}
    with both_ports.client(role) as client:
        uploaded = client.post(
            UPLOAD, data={"payload": json.dumps(payload)}, files={"input_audio_file": ("a.wav", HUM)}
        )
        inline = change(client, **EMOTION)
        assert same(uploaded, inline)
        payload = {"input": "Hello there.", "seed": 1, "step_audio": {"prompt_text": "a hum"}}
        files = {"prompt_audio_file": ("a.wav", HUM)}
        cloned = client.post(UPLOAD, data={"payload": json.dumps(payload)}, files=files)
        assert same(cloned, ask(client, CLONE))


# ---- omitted fields, and the voice


@pytest.mark.slow
def test_only_the_text_is_required(client: httpx.Client) -> None:
    bare = client.post(SPEECH, json={"input": "Hello there.", "seed": 1}, timeout=300)
    assert bare.headers["content-type"] == "audio/wav"
    assert bare.headers["X-StepAudio-Voice"] == "hum"
    assert same(bare, ask(client, {}, voice="hum"))
    assert same(bare, ask(client, {"mode": "clone"}, voice=None, stream=False, metadata=None))
    assert same(bare, client.post(SPEECH, json={"input": "Hello there.", "seed": 1, "step_audio": None}))
    refused(client.post(SPEECH, json={"step_audio": {}}), 400, "input", "required")


def test_requests_in_openais_form_stay_what_they_were(client: httpx.Client) -> None:
    refused(client.post(SPEECH, json={"model": "tts-1", "input": "Hello."}), 400, "voice", "required")
    refused(client.post(SPEECH, json={"voice": "alloy", "input": "Hello."}), 400, "model", "required")
    theirs = client.post(SPEECH, json={"model": "hibari", "voice": "heart", "input": "Hello."})
    assert theirs.headers["content-type"] == "audio/mpeg"
    assert theirs.headers["X-StepAudio-Voice"] == "heart"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"input": "x"}', True),
        (b'{"input": "x", "model": "step-audio-editx"}', True),
        (b'{"input": "x", "voice": null}', True),
        (b'{"input": "x", "voice": "fear_female"}', True),
        (b'{"input": "x", "model": "tts-1", "voice": "alloy", "step_audio": {}}', True),
        (b'{"input": "x", "model": "tts-1", "voice": "alloy", "metadata": {"a": "b"}}', False),
        (b'{"input": "x", "model": "tts-1", "voice": "alloy", "stream": true}', False),
        (b'{"input": "x", "model": "kokoro", "voice": "af_heart", "stream": false}', False),
        (b'{"input": "x", "model": "tts-1", "voice": "fear_female", "stream": false}', False),
        (b'{"input": "x", "model": "step-audio-editx", "voice": "hum", "stream": true}', False),
        (b'{"input": "x", "model": "step-audio-editx", "voice": "happy_en", "stream": true}', True),
        (b'{"input": "x", "voice": "hum", "metadata": {}}', True),
        (b'{"input": "x", "voice": "hum", "stream": false}', True),
        (b'{"input": "x", "voice": "hum", "metadata": null, "step_audio": null}', False),
        (b'{"input": "x", "model": null, "voice": "whisper_cn"}', True),
        (b'{"input": "x", "model": "tts-1", "voice": "alloy", "step_audio": null}', False),
        (b'{"input": "x", "model": "tts-1", "voice": "alloy"}', False),
        (b'{"input": "x", "model": "tts-1"}', False),
        (b'{"input": "x", "voice": "alloy"}', False),
        (b'{"input": "x", "model": "step-audio-editx", "voice": {"id": "hum"}}', False),
        (b'{"input": "x", "model": "step-audio-editx", "voice": ["fear_female"]}', False),
        (b"[]", False),
        (b"{", False),
        (b"[" * 100_000, False),
        (b"\xff", False),
    ],
)
def test_the_old_form_is_known_by_what_it_has_and_lacks(body: bytes, expected: bool) -> None:
    assert is_old(body) is expected


@pytest.mark.slow
def test_a_voice_of_the_library_goes_before_an_old_name(
    start_daemon: StartDaemon, tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "models").symlink_to(data / "models")
    (tmp_path / "hum.wav").write_bytes(HUM)
    for name in ("Aunt", "happy_en"):
        VoiceLibrary(folder / "voices").create(name, tmp_path / "hum.wav", "a hum", "mine")
    settings = {"engine": "auto", "threads": 1, "data_dir": folder, "step_audio.check_output": "false"}
    with start_daemon(settings).client() as client:
        assert ask(client, voice="happy_en").headers["X-StepAudio-Voice"] == "happy-en"
        assert ask(client, voice="whisper_cn").headers["X-StepAudio-Voice"] == "aunt"


@pytest.mark.slow
def test_without_the_model_speech_uses_another_installed_engine(embedded: DaemonProcess) -> None:
    client = embedded.shared_client
    for voice in ("fear_female", "happy_en", "whisper_cn", "story_teller", None):
        response = ask(client, voice=voice)
        assert response.headers["content-type"] == "audio/wav"
        assert response.headers["X-StepAudio-Model"] in ("kokoro", "hibari")
        ids = {v["id"] for v in client.get("/v1/voices").json()}
        assert response.headers["X-StepAudio-Voice"] in ids
    assert len(samples(ask(client, {"mode": "clone"}))) > 10_000


def test_without_the_model_small_edits_use_the_audio_tools(embedded: DaemonProcess) -> None:
    client = embedded.shared_client
    able = client.get("/v1/tags").json()["models"]["denoise"]
    if not able:
        pytest.skip("nothing that is installed can denoise")
    response = change(client, mode="denoise")
    assert response.headers["X-StepAudio-Model"] == able[0]
    assert len(samples(response)) > 10_000


def test_without_the_model_other_requests_say_how_to_install_it(embedded: DaemonProcess) -> None:
    client = embedded.shared_client
    for step_audio in (
        CLONE,
        {**EMOTION, "input_audio_base64": IN_BASE64},
        {"mode": "clone", "edit_info": "happy"},
        {"model_variant": "bnb"},
        {"model_variant": "base"},
    ):
        response = ask(client, step_audio)
        refused(response, 503, None, "models pull")
        assert response.json()["error"]["code"] == "engine_unavailable"
    assert client.get("/api/v1/models/status").json()["awq"]["loaded"] is False
    assert client.post("/api/v1/models/awq/unload").json()["unloaded"] is False


# ---- URLs


def test_urls_are_refused_until_they_are_allowed(client: httpx.Client, both_ports: DaemonProcess) -> None:
    field = "step_audio.input_audio_url"
    options = {"mode": "vad", "input_audio_url": f"{both_ports.url}/healthz"}
    refused(ask(client, options), 400, field, "allow_url_fetch")
    refused(ask(both_ports.shared_client, options), 400, field, "public internet")
    prompt = {"prompt_audio_url": "http://169.254.169.254/latest/meta-data/"}
    refused(ask(both_ports.shared_client, prompt), 400, "step_audio.prompt_audio_url", "public internet")
    refused(
        ask(both_ports.shared_client, {"prompt_audio_url": "file:///etc/passwd"}),
        400,
        "step_audio.prompt_audio_url",
    )
