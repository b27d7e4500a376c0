"""The two short requests of the old containers' README, as it shows them and in other forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.old_client import CLONE, EMOTION, HUM, IN_BASE64, ask, change, refused, same
from tests.web.test_access import DIGEST, KEY

IGNORED, WARNING = "X-StepAudio-Ignored", "X-StepAudio-Warning"
TEXT = "Hello there."
SAID: dict[str, Any] = {"prompt_text": "a hum", "seed": 1}
HAPPY: dict[str, Any] = {"mode": "emotion", "emotion": "happy", "audio_text": "a hum", "seed": 1}


@pytest.fixture
def client(step_audio: DaemonProcess) -> httpx.Client:
    return step_audio.shared_client


def clone(client: httpx.Client, field: str = "audio", **data: Any) -> httpx.Response:
    return client.post("/api/clone", files={field: ("a.wav", HUM)}, data=data, timeout=300)


def edit(client: httpx.Client, field: str = "audio", **data: Any) -> httpx.Response:
    return client.post("/api/edit", files={field: ("a.wav", HUM)}, data=data, timeout=300)


def test_the_requests_of_the_old_readme_give_audio(client: httpx.Client) -> None:
    for response in (
        clone(client, text="Hello, this is a cloned voice!", **SAID),
        edit(client, intensity=1.5, **HAPPY),
        edit(client, mode="style", style="whisper", intensity=2.0, audio_text="a hum"),
    ):
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "audio/wav"
        assert response.headers["X-StepAudio-Model"] == "step-audio-editx"
        assert WARNING not in response.headers
        assert IGNORED not in response.headers


@pytest.mark.slow
def test_they_are_the_long_request_under_other_names(client: httpx.Client) -> None:
    assert same(clone(client, text=TEXT, **SAID), ask(client, CLONE))
    assert same(edit(client, intensity=2, **HAPPY), change(client, **EMOTION, intensity=2))
    assert same(
        clone(client, text=TEXT, style="whisper", **SAID), ask(client, CLONE | {"edit_info": "whisper"})
    )


@pytest.mark.slow
def test_json_and_other_names_of_fields_are_the_same_request(client: httpx.Client) -> None:
    cloned, edited = clone(client, text=TEXT, **SAID), edit(client, **HAPPY)
    for names in (
        {"audio": IN_BASE64, "text": TEXT, "prompt_text": "a hum"},
        {"prompt_audio_base64": f"data:audio/wav;base64,{IN_BASE64}", "input": TEXT, "ref_text": "a hum"},
        {"audio_base64": IN_BASE64, "target_text": TEXT, "audio_text": "a hum", "voice": None},
    ):
        assert same(client.post("/api/clone", json={**names, "seed": 1}, timeout=300), cloned)
    assert same(clone(client, "prompt_audio", input=TEXT, **SAID), cloned)
    for body in (
        {"audio": IN_BASE64, "mode": "emotion", "emotion": "happy", "audio_text": "a hum"},
        {"input_audio_base64": IN_BASE64, "emotion": "happy", "transcript": "a hum"},
        {"audio": IN_BASE64, "task": "emotion (情感)", "sub_task": "happy (开心)", "prompt_text": "a hum"},
    ):
        assert same(client.post("/api/edit", json={**body, "seed": 1}, timeout=300), edited)
    escaped = json.dumps({"audio": IN_BASE64, "text": TEXT, **SAID}).replace('"audio"', '"\\u0061udio"')
    assert same(client.post("/api/clone", content=escaped, timeout=300), cloned)
    assert same(edit(client, "file", mode="emotion", edit_info="happy", audio_text="a hum", seed=1), edited)


def test_without_a_recording_a_voice_speaks(client: httpx.Client) -> None:
    for answer in (
        client.post("/api/clone", data={"text": TEXT, "seed": 1}, timeout=300),
        client.post("/api/clone", json={"text": TEXT, "seed": 1, "voice": "hum"}, timeout=300),
        client.post("/api/clone", files={"text": (None, TEXT), "seed": (None, "1")}, timeout=300),
    ):
        assert answer.headers["X-StepAudio-Voice"] == "hum"
        assert same(answer, ask(client, {}, voice="hum"))


def test_what_is_not_known_is_named_and_not_refused(client: httpx.Client) -> None:
    response = edit(client, mode="style", style="xyzzy", colour="green", text="x")
    assert response.headers["X-StepAudio-Model"] == "unchanged"
    assert "'xyzzy'" in response.headers[WARNING]
    assert response.headers[IGNORED] == "text, style, colour"
    both = edit(client, emotion="xyzzy", style="xyzzy")
    assert both.headers[IGNORED] == "emotion, style"


def test_errors_name_the_fields_of_the_request(client: httpx.Client) -> None:
    refused(clone(client), 400, "text", "required")
    refused(client.post("/api/clone", json={"audio": IN_BASE64}), 400, "text", "required")
    refused(client.post("/api/edit", data={"mode": "vad"}), 400, "audio", "as the file audio")
    refused(client.post("/api/edit", json={"mode": "vad"}), 400, "audio", "as the file audio")
    refused(edit(client), 400, "mode", "/v1/tags")
    refused(edit(client, mode="sing"), 400, "mode", "paralinguistic")
    refused(edit(client, mode="clone"), 400, "mode", "/api/clone")
    refused(edit(client, mode="paralinguistic", audio_text="a hum"), 400, "text")
    refused(client.post("/api/edit", json={"mode": "vad", "audio": "no base64!"}), 400, "audio", "base64")
    no_sound = {"audio": ("a.wav", b"no sound" * 50)}
    refused(client.post("/api/edit", files=no_sound, data={"mode": "vad"}), 400, "audio", "can't be read")
    url = {"mode": "vad", "audio_url": "http://127.0.0.1/a.wav"}
    refused(client.post("/api/edit", json=url), 400, "audio_url", "allow_url_fetch")
    refused(clone(client, text="x", response_format="tape"), 400, "response_format", "mp3")
    refused(clone(client, text="x" * 200_000), 400, "text", "limits.max_text")


def test_every_kind_of_socket_serves_both_to_callers_with_a_key(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"laptop:{DIGEST}\n")
    settings = {"access.auth": "keys", "access.keys_file": tmp_path / "keys"}
    daemon = start_daemon(settings, roles=("http", "api", "page"))
    with_key = {"Authorization": f"Bearer {KEY}"}
    for role in ("http", "api", "page"):
        with daemon.client(role) as client:
            for path in ("/api/clone", "/api/edit"):
                assert client.post(path, json={"text": "x"}).status_code == 401
                assert client.get(path, headers=with_key).status_code == 405
            body = {"mode": "style", "style": "xyzzy", "audio": IN_BASE64}
            assert client.post("/api/edit", json=body, headers=with_key).status_code == 200
            assert client.post("/api/clone", json={"text": "Hi."}, headers=with_key).status_code == 200
            stranger = {**with_key, "Host": "evil.example"}
            assert client.post("/api/clone", json={"text": "Hi."}, headers=stranger).status_code == 421
