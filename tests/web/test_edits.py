"""Editing recordings over the API, and cloned speech with an emotion."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from stepaudiod.edits import OPTIONS
from tests.activation import DaemonProcess
from tests.web.conftest import hum, samples, wav

HUM = wav(hum())
CLONE = {
    "model": "step-audio-editx",
    "voice": "hum",
    "input": "Hello there.",
    "response_format": "wav",
    "seed": 1,
}


@pytest.fixture
def client(step_audio: DaemonProcess) -> httpx.Client:
    return step_audio.shared_client


def edit(client: httpx.Client, file: bytes = HUM, **fields: object) -> httpx.Response:
    form = {"mode": "denoise", "seed": "1"} | {name: str(value) for name, value in fields.items()}
    return client.post("/v1/audio/edits", data=form, files={"file": ("hum.wav", file)}, timeout=300)


def refused(response: httpx.Response, status: int, param: str | None, *words: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param
    for word in words:
        assert word in error["message"]


def test_an_edit_returns_audio_and_its_seed(client: httpx.Client) -> None:
    first, again, other = edit(client), edit(client), edit(client, seed=2)
    assert first.headers["content-type"] == "audio/wav"
    assert first.headers["X-StepAudio-Model"] == "step-audio-editx"
    assert first.headers["X-StepAudio-Seed"] == "1"
    assert np.array_equal(samples(first), samples(again))
    assert not np.array_equal(samples(first), samples(other))


@pytest.mark.slow
def test_intensity_in_words_is_the_number_it_stands_for(client: httpx.Client) -> None:
    happy = {"mode": "emotion", "edit_info": "happy", "transcript": "a hum"}
    words, number, plain = (
        samples(edit(client, HUM, **happy, **more))
        for more in ({"intensity": "Dramatically"}, {"intensity": "3"}, dict[str, str]())
    )
    assert np.array_equal(words, number)
    assert not np.array_equal(words, plain)


def test_wrong_combinations_are_refused_by_name(client: httpx.Client) -> None:
    refused(edit(client, mode="colour"), 400, "mode", "emotion")
    refused(edit(client, mode="emotion", edit_info="glad"), 400, "edit_info", "happy", "remove")
    refused(edit(client, mode="denoise", edit_info="happy"), 400, "edit_info")
    refused(edit(client, iterations=5), 400, "iterations", "4")
    refused(
        edit(client, mode="emotion", edit_info="happy", intensity="wildly"), 400, "intensity", "dramatically"
    )
    refused(edit(client, mode="paralinguistic", text="no tag", transcript="x"), 400, "text", "[Laughter]")
    refused(edit(client, mode="denoise", intensity=2), 400, "intensity")
    refused(edit(client, model="hibari"), 422, "model", "step-audio-editx")
    refused(edit(client, model="missing"), 404, "model")


@pytest.mark.slow
def test_tags_in_any_spelling_are_accepted_and_unknown_ones_are_warned_of(client: httpx.Client) -> None:
    old, new, known, unknown = (
        edit(client, mode="paralinguistic", text=f"{tag} a hum", transcript="a hum")
        for tag in ("[Laughter]", "[LAUGH]", "[clears throat]", "[dance]")
    )
    assert np.array_equal(samples(old), samples(new))
    assert not np.array_equal(samples(new), samples(known))
    assert "X-StepAudio-Warning" not in known.headers
    assert samples(unknown).size
    assert "[dance]" in unknown.headers["X-StepAudio-Warning"]


def test_invalid_recordings_are_refused(client: httpx.Client) -> None:
    refused(edit(client, b""), 400, "file", "empty")
    refused(edit(client, b"not a sound at all" * 100), 400, "file", "can't be read")
    refused(edit(client, wav(np.zeros(48000))), 400, "file", "silent")
    refused(client.post("/v1/audio/edits", data={"mode": "vad"}), 400, None, "multipart")
    refused(client.post("/v1/audio/edits", files={"other": b"x"}, data={"mode": "vad"}), 400, "file")
    refused(client.post("/v1/audio/edits", files={"file": (None, "x")}, data={"mode": "vad"}), 400, "file")


def test_no_upload_is_left_behind(client: httpx.Client, spool: Path) -> None:
    edit(client)
    edit(client, b"not a sound")
    client.post("/v1/audio/edits", files={"file": ("x.wav", HUM)}, data={"mode": "colour"})
    client.get("/healthz")  # by its answer, what the last response left behind has been cleared away
    assert list(spool.glob("stepaudiod-*")) == []


@pytest.mark.slow
def test_a_clone_follows_instructions_and_says_which(client: httpx.Client) -> None:
    plain = client.post("/v1/audio/speech", json=CLONE, timeout=300)
    wish = CLONE | {"instructions": "Please whisper this, and not too sad."}
    whispered = client.post("/v1/audio/speech", json=wish, timeout=300)
    assert whispered.headers["X-StepAudio-Instructions"] == "style=whisper"
    assert not np.array_equal(samples(plain), samples(whispered))
    unknown = client.post("/v1/audio/speech", json=CLONE | {"instructions": "Like a robot."}, timeout=300)
    assert unknown.headers["X-StepAudio-Ignored"] == "instructions"
    assert np.array_equal(samples(plain), samples(unknown))


def test_a_language_tag_changes_what_is_said(client: httpx.Client) -> None:
    plain = client.post("/v1/audio/speech", json=CLONE, timeout=300)
    cantonese = client.post("/v1/audio/speech", json=CLONE | {"language": "Cantonese"}, timeout=300)
    assert not np.array_equal(samples(plain), samples(cantonese))
    refused(client.post("/v1/audio/speech", json=CLONE | {"language": "Klingon"}), 400, "language", "Korean")
    hibari = CLONE | {"model": "hibari", "voice": "heart", "language": "Cantonese"}
    refused(client.post("/v1/audio/speech", json=hibari), 400, "language", "hibari")


def test_tags_list_every_option_with_its_engines(client: httpx.Client) -> None:
    tags = client.get("/v1/tags").json()
    assert tags["data"] == {mode: list(options) for mode, options in OPTIONS.items()}
    assert len(tags["data"]["emotion"]) == 15
    assert len(tags["data"]["style"]) == 33
    assert len(tags["data"]["paralinguistic"]) == 24
    assert "step-audio-editx" in tags["models"]["emotion"]
    abilities = client.get("/v1/models/step-audio-editx").json()["capabilities"]
    assert abilities["clone"] is True
    assert client.get("/v1/models/step-audio-editx-int8").json()["id"] == "step-audio-editx-int8"
    assert client.get("/v1/models/missing").status_code == 404


def test_a_legacy_edit_without_a_transcript_is_transcribed(client: httpx.Client) -> None:
    say = {"model": "hibari", "voice": "heart", "input": "The boy was there when the sun rose.", "seed": 1}
    spoken = client.post("/v1/audio/speech", json=say).content
    payload = {
        "model": "step-audio-editx",
        "input": "",
        "step_audio": {"mode": "emotion", "edit_info": "happy"},
    }
    answer = client.post(
        "/v1/audio/speech/upload",
        data={"payload": json.dumps(payload)},
        files={"input_audio_file": ("said.mp3", spoken)},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    assert "sun rose" in answer.headers["X-StepAudio-Transcript"]
    assert answer.headers["X-StepAudio-Transcript-By"] == "whisper-tiny.en"
