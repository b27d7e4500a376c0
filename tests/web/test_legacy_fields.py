"""The fields of the old containers: their effects, and the errors of wrong values."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from stepaudiod.errors import InvalidRequest
from stepaudiod.web.legacy import metadata_headers
from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, samples, wav
from tests.web.old_client import CLONE, EMOTION, HUM, IN_BASE64, SPEECH, UPLOAD, ask, change, refused, same

HUM_S = 3
"""The length of `HUM`."""
WARNING = "X-StepAudio-Warning"


@pytest.fixture
def client(step_audio: DaemonProcess) -> httpx.Client:
    return step_audio.shared_client


@pytest.mark.slow
def test_a_variant_is_a_number_of_bits(client: httpx.Client) -> None:
    plain = change(client, mode="denoise")
    for variant, name in (("base", "step-audio-editx-base"), ("bnb", "step-audio-editx-int8")):
        response = change(client, mode="denoise", model_variant=variant)
        assert response.headers["X-StepAudio-Model"] == name
        assert same(response, plain) is (variant == "base")
        status = client.get("/api/v1/models/status").json()
        assert status[variant]["loaded"] is True
        assert status["awq"]["loaded"] is False
    assert client.post("/api/v1/models/bnb/unload").json() == {
        "model": "step-audio-editx-int8",
        "unloaded": True,
    }
    assert client.get("/api/v1/models/status").json()["bnb"]["loaded"] is False
    refused(ask(client, {"model_variant": "fp4"}), 400, "step_audio.model_variant", "awq")
    hibari = ask(client, {"model_variant": "awq"}, model="hibari")
    refused(hibari, 400, "step_audio.model_variant", "no variants")


@pytest.mark.slow
def test_what_is_configured_is_the_variant_that_is_loaded(client: httpx.Client) -> None:
    change(client, mode="denoise")
    status = client.get("/api/v1/models/status").json()
    assert [status[v]["loaded"] for v in ("base", "bnb", "awq")] == [True, False, False]
    assert client.post("/api/v1/models/base/unload").json()["unloaded"] is True


@pytest.mark.slow
def test_intensity_and_iterations_change_the_result(client: httpx.Client) -> None:
    plain = change(client, **EMOTION)
    assert not same(plain, change(client, **EMOTION, intensity=3.0))
    assert same(change(client, **EMOTION, intensity="dramatically"), change(client, **EMOTION, intensity=3))
    assert not same(plain, change(client, **EMOTION, n_edit_iter=2))
    refused(change(client, **EMOTION, n_edit_iter=[1]), 400, "step_audio.n_edit_iter")


@pytest.mark.slow
def test_a_clone_may_have_an_emotion_or_a_style(client: httpx.Client) -> None:
    plain = ask(client, CLONE)
    for info in ("happy", "whisper"):
        assert not same(plain, ask(client, {**CLONE, "edit_info": info}))
        assert same(ask(client, {**CLONE, "edit_info": info}), ask(client, {"edit_info": info}, voice="hum"))
    for info in ("green", "remove"):
        unknown = ask(client, {**CLONE, "edit_info": info})
        assert same(unknown, plain)
        assert unknown.headers["X-StepAudio-Ignored"] == "step_audio.edit_info"
        assert f"'{info}'" in unknown.headers[WARNING]


@pytest.mark.slow
def test_a_speed_in_figures_is_the_models_word_for_it(client: httpx.Client) -> None:
    def at(info: str) -> httpx.Response:
        return change(client, mode="speed", edit_info=info, audio_text="a hum")

    for figure, word in (
        ("0.5x", "more slower"),
        ("0.85X", "slower"),
        ("1.2x", "faster"),
        ("2 x", "more faster"),
    ):
        assert same(at(figure), at(word))
        assert WARNING not in at(figure).headers
    assert at("1x").headers[WARNING] == "the recording is unchanged"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "taken", "warning"),
    [
        ({"edit_info": "formal"}, {"mode": "style", "edit_info": "serious"}, "the style serious"),
        ({"edit_info": "happy (开心)", "intensity": 9}, {"intensity": 3}, "intensity 9 is taken as 3"),
        ({"edit_info": "sad", "intensity": "very"}, {"edit_info": "sad"}, "unknown intensity 'very'"),
        ({"edit_info": "sad", "n_edit_iter": 0}, {"edit_info": "sad"}, "n_edit_iter is taken as 1"),
        ({"mode": "emotion (情感)", "edit_info": "shy"}, {"mode": "style", "edit_info": "shy"}, "style"),
        ({"mode": "speed", "edit_info": "slowly"}, {"mode": "speed", "edit_info": "slower"}, None),
        ({"mode": "speed", "edit_info": 0.8}, {"mode": "speed", "edit_info": "slower"}, None),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_is_not_known_is_taken_as_one_that_is(
    client: httpx.Client, wrong: dict[str, Any], taken: dict[str, Any], warning: str | None
) -> None:
    response = change(client, **{**EMOTION, **wrong})
    assert same(response, change(client, **{**EMOTION, **taken}))
    assert warning is None or warning in response.headers[WARNING]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "style", "edit_info": "xyzzy"},
        {"mode": "emotion", "edit_info": "绿色"},
        {"mode": "emotion", "edit_info": ""},
        {"mode": "style", "intensity": 7},
        {"mode": "speed", "edit_info": "xyzzy"},
        {"mode": "speed"},
    ],
    ids=str,
)
def test_a_recording_is_unchanged_where_nothing_known_is_asked_for(
    client: httpx.Client, wrong: dict[str, Any]
) -> None:
    response = change(client, **wrong)
    assert response.status_code == 200, response.text
    assert response.headers[WARNING].endswith("the recording is unchanged")
    assert response.headers["X-StepAudio-Model"] == "unchanged"
    sound = samples(response)
    assert len(sound) == 48_000 * HUM_S
    assert abs(int(np.abs(sound).max()) - int(np.abs(hum(HUM_S)).max() * 32767)) < 300
    assert client.get("/api/v1/models/status").json().get("unchanged") is None


@pytest.mark.slow
def test_what_edit_info_leaves_out_may_be_in_the_input(client: httpx.Client) -> None:
    step_audio = {
        "mode": "style",
        "edit_info": "xyzzy",
        "audio_text": "a hum",
        "input_audio_base64": IN_BASE64,
    }
    response = ask(client, step_audio, input="我想要用更正式、演讲的语气。")
    assert same(response, change(client, **EMOTION | {"mode": "style", "edit_info": "serious"}))
    assert response.headers[WARNING] == "what the input says is taken as the style serious"
    assert "X-StepAudio-Ignored" not in response.headers


@pytest.mark.slow
def test_what_a_mode_does_not_use_is_ignored_and_named(client: httpx.Client) -> None:
    noise = change(client, mode="denoise", edit_info="happy", intensity=2.0, prompt_text="x")
    assert noise.headers["X-StepAudio-Ignored"] == (
        "input, step_audio.edit_info, step_audio.intensity, step_audio.prompt_text"
    )
    assert same(noise, change(client, mode="denoise"))
    assert "X-StepAudio-Ignored" not in ask(client, CLONE).headers
    both = ask(client, {**CLONE, "input_audio_base64": IN_BASE64}, voice="hum")
    assert both.headers["X-StepAudio-Ignored"] == "step_audio.input_audio_base64, voice"
    damaged = ask(client, {**CLONE, "input_audio_base64": "not base64!"})
    assert damaged.headers["X-StepAudio-Ignored"] == "step_audio.input_audio_base64"
    unknown = change(client, mode="denoise", colour="green", input_audio_base64=IN_BASE64)
    assert unknown.headers["X-StepAudio-Ignored"] == "input, step_audio.colour"
    wish = ask(client, CLONE, instructions="Whisper, please.")
    assert wish.headers["X-StepAudio-Instructions"] == "style=whisper"


@pytest.mark.slow
def test_an_unknown_tag_is_passed_on_and_warned_of(client: httpx.Client) -> None:
    step_audio = {"mode": "paralinguistic", "audio_text": "a hum", "input_audio_base64": IN_BASE64}
    response = ask(client, step_audio, input="[dance] a hum")
    assert response.status_code == 200, response.text
    assert "[dance]" in response.headers[WARNING]
    assert "has no tag" in ask(client, step_audio, input="a hum").headers[WARNING]
    several = ask(client, {**step_audio, "n_edit_iter": 9}, input="[dance] a hum")
    assert several.headers[WARNING].startswith("n_edit_iter is taken as 4; unknown tag [dance]")


def test_errors_name_the_fields_of_the_request(client: httpx.Client) -> None:
    field = "step_audio.input_audio_base64"
    refused(ask(client, {"mode": "vad"}), 400, field, "input_audio_file")
    refused(change(client, mode="vad", input_audio_base64="not base64!"), 400, field, "base64")
    noise = base64.b64encode(b"no sound" * 50).decode()
    refused(change(client, mode="vad", input_audio_base64=noise), 400, field, "can't be read")
    silence = base64.b64encode(wav(np.zeros(48_000))).decode()
    refused(ask(client, {**CLONE, "prompt_audio_base64": silence}), 400, "step_audio.prompt_audio_base64")
    refused(change(client, mode="sing"), 400, "step_audio.mode", "paralinguistic")
    refused(ask(client, voice="missing", stream=True), 400, "voice", "missing")
    refused(ask(client, {}, input="  "), 400, "input")
    refused(ask(client, {}, metadata={"a": 1}), 400, "metadata.a")
    refused(ask(client, {}, model="gpt-2"), 404, "model")


def test_uploads_have_their_own_errors(client: httpx.Client) -> None:
    def post(payload: str | None, **files: tuple[str | None, bytes]) -> httpx.Response:
        data = {} if payload is None else {"payload": payload}
        return client.post(UPLOAD, data=data, files=files or {"other": (None, b"x")})

    good = json.dumps({"input": "x", "step_audio": {"mode": "vad"}})
    refused(post(None, input_audio_file=("a", HUM)), 400, "payload", "required")
    for text in ("{", "[]"):
        refused(post(text, input_audio_file=("a", HUM)), 400, "payload", "'payload' isn't a JSON object")
    refused(post(good, input_audio_file=("a", b"")), 400, "input_audio_file", "empty")
    refused(post(good, input_audio_file=("a", b"no sound" * 50)), 400, "input_audio_file", "can't be read")
    refused(post(good), 400, "input_audio_file", "input_audio_file")
    refused(client.post(UPLOAD, json={}), 400, None, "multipart")
    inside = json.dumps({"input": "x", "step_audio": {"mode": "vad", "input_audio_base64": IN_BASE64}})
    assert post(inside, prompt_audio_file=("a", HUM)).status_code == 200


# ---- base64


@pytest.mark.slow
@pytest.mark.parametrize(
    "written",
    [
        f"data:audio/wav;base64,{IN_BASE64}",
        base64.encodebytes(HUM).decode(),
        base64.urlsafe_b64encode(HUM).decode().rstrip("="),
    ],
    ids=["data URL", "lines", "URL-safe, unpadded"],
)
def test_base64_comes_in_many_spellings(client: httpx.Client, written: str) -> None:
    assert same(change(client, mode="denoise", input_audio_base64=written), change(client, mode="denoise"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plain", "written"),
    [("/", "\\/"), ("+", "\\u002B"), ('": "', '"' + " " * 500 + ':\n"'), ("_base64", "\\u005fbase64")],
)
def test_json_may_be_written_in_any_way(client: httpx.Client, plain: str, written: str) -> None:
    body = json.dumps(
        {"input": "x", "seed": 1, "step_audio": {"mode": "denoise", "input_audio_base64": IN_BASE64}}
    )
    response = client.post(SPEECH, content=body.replace(plain, written), timeout=300)
    assert same(response, change(client, mode="denoise"))


@pytest.mark.slow
def test_a_recording_may_be_larger_than_a_text_and_has_a_limit(
    start_daemon: StartDaemon, data: Path, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    settings = {"engine": "auto", "threads": 1, "data_dir": data, "step_audio.check_output": "false"}
    limits = {"limits.max_body": 20_000, "limits.max_upload": 400_000}
    with start_daemon({**settings, **limits}, environ={"TMPDIR": str(spool)}).client() as client:
        assert len(IN_BASE64) > 20_000
        assert change(client, mode="vad").status_code == 200
        longer = base64.b64encode(wav(hum(9.0))).decode()
        refused(change(client, mode="vad", input_audio_base64=longer), 413, None, "limits.max_upload")
        refused(ask(client, CLONE, input="a" * 30_000), 413, None, "limits.max_body")
        refused(change(client, mode="vad", audio_text="a" * 30_000), 413, None, "limits.max_body")
        client.get("/healthz")
        assert list(spool.glob("stepaudiod-*")) == []


# ---- metadata


def test_metadata_comes_back_and_can_set_no_other_header(client: httpx.Client) -> None:
    metadata = {
        "trace_id": "demo",
        "text": "\u4f60\u597d",
        "evil": "x\r\nX-Evil: 1",
        "x-stepaudio-model": "mine",
    }
    response = ask(client, {}, metadata=metadata)
    assert response.headers["x-metadata-trace_id"] == "demo"
    assert response.headers["x-metadata-text"] == "%E4%BD%A0%E5%A5%BD"
    assert response.headers["x-metadata-evil"] == "x%0D%0AX-Evil: 1"
    assert "x-evil" not in response.headers
    assert response.headers["X-StepAudio-Model"] == "step-audio-editx"
    assert "x-metadata-trace_id" not in ask(client, {}).headers


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "\u540d", "n" * 65])
def test_names_that_no_header_has_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        metadata_headers({name: "x"})
    assert raised.value.param == "metadata"


def test_metadata_is_bounded() -> None:
    assert len(metadata_headers({str(n): "x" for n in range(16)})) == 16
    for much in ({str(n): "x" for n in range(17)}, {"a": "x" * 5000}, {"a": "\u4f60" * 600}):
        with pytest.raises(InvalidRequest, match="too much"):
            metadata_headers(much)
