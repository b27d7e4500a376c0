"""The requests of the containers before this daemon, replayed: each endpoint, field and example."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from stepaudiod.errors import InvalidRequest
from stepaudiod.voices import VoiceLibrary
from stepaudiod.web.legacy import is_old, metadata_headers
from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, samples, wav

HUM = wav(hum())

IN_BASE64 = base64.b64encode(HUM).decode()
EMOTION = {"mode": "emotion", "edit_info": "happy", "audio_text": "a hum"}
SPEECH, UPLOAD = "/v1/audio/speech", "/v1/audio/speech/upload"


@pytest.fixture(scope="module")
def both_ports(start_module_daemon: StartDaemon, data: Path) -> DaemonProcess:
    """Step-Audio-EditX as the old containers had it: the page's port, and one for the API alone."""
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


def ask(client: httpx.Client, step_audio: dict[str, Any] | None = None, **fields: Any) -> httpx.Response:
    """A request as an old client writes it."""
    body = {"model": "step-audio-editx", "input": "Hello there.", "seed": 1} | fields
    if step_audio is not None:
        body["step_audio"] = step_audio
    return client.post(SPEECH, json=body, timeout=300)


def change(client: httpx.Client, **step_audio: Any) -> httpx.Response:
    return ask(client, {"input_audio_base64": IN_BASE64} | step_audio)


def refused(response: httpx.Response, status: int, param: str | None, *words: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param, error
    for word in words:
        assert word in error["message"]


def same(one: httpx.Response, other: httpx.Response) -> bool:
    return np.array_equal(samples(one), samples(other))


# ---- what the old documents show, on both ports


@pytest.mark.parametrize("role", ["http", "api"])
def test_every_question_of_the_old_api_is_answered_on_both_ports(
    both_ports: DaemonProcess, role: str
) -> None:
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


CLONE = {"mode": "clone", "prompt_audio_base64": IN_BASE64, "prompt_text": "a hum"}
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


@pytest.mark.parametrize("role", ["http", "api"])
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_every_example_of_the_old_manual_gives_audio_on_both_ports(
    both_ports: DaemonProcess, role: str, example: dict[str, Any]
) -> None:
    with both_ports.client(role) as client:
        response = ask(client, **example)
    assert response.status_code == 200, response.text
    kind = example.get("response_format", "wav").replace("mp3", "mpeg")
    assert response.headers["content-type"] == f"audio/{kind}"
    assert response.headers["X-StepAudio-Model"] == "step-audio-editx"
    assert len(response.content) > 1000
    for name, value in example.get("metadata", {}).items():
        assert response.headers[f"x-metadata-{name}"] == value


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


# ---- what is left out, and who speaks


def test_only_the_text_is_required(client: httpx.Client) -> None:
    bare = client.post(SPEECH, json={"input": "Hello there.", "seed": 1}, timeout=300)
    assert bare.headers["content-type"] == "audio/wav"
    assert bare.headers["X-StepAudio-Voice"] == "hum"
    assert same(bare, ask(client, {}, voice="hum"))
    assert same(bare, ask(client, {"mode": "clone"}, voice=None, stream=False, metadata=None))
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
        (b'{"input": "x", "model": "tts-1", "voice": "alloy", "metadata": {}}', True),
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


def test_without_the_model_plain_speech_is_spoken_by_whoever_is_here(embedded: DaemonProcess) -> None:
    client = embedded.shared_client
    for voice in ("fear_female", "happy_en", "whisper_cn", "story_teller", None):
        response = ask(client, voice=voice)
        assert response.headers["content-type"] == "audio/wav"
        assert response.headers["X-StepAudio-Model"] in ("kokoro", "hibari")
        ids = {v["id"] for v in client.get("/v1/voices").json()}
        assert response.headers["X-StepAudio-Voice"] in ids
    assert len(samples(ask(client, {"mode": "clone"}))) > 10_000


def test_without_the_model_small_edits_are_done_by_whoever_can(embedded: DaemonProcess) -> None:
    client = embedded.shared_client
    able = client.get("/v1/tags").json()["models"]["denoise"]
    if not able:
        pytest.skip("nothing that is installed can denoise")
    response = change(client, mode="denoise")
    assert response.headers["X-StepAudio-Model"] == able[0]
    assert len(samples(response)) > 10_000


def test_without_the_model_the_rest_says_how_to_have_it(embedded: DaemonProcess) -> None:
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


# ---- the fields


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


def test_what_is_configured_is_the_variant_that_is_loaded(client: httpx.Client) -> None:
    change(client, mode="denoise")
    status = client.get("/api/v1/models/status").json()
    assert [status[v]["loaded"] for v in ("base", "bnb", "awq")] == [True, False, False]
    assert client.post("/api/v1/models/base/unload").json()["unloaded"] is True


def test_intensity_and_iterations_change_the_result(client: httpx.Client) -> None:
    plain = change(client, **EMOTION)
    assert not same(plain, change(client, **EMOTION, intensity=3.0))
    assert same(change(client, **EMOTION, intensity="dramatically"), change(client, **EMOTION, intensity=3))
    assert not same(plain, change(client, **EMOTION, n_edit_iter=2))
    refused(change(client, **EMOTION, intensity=0.05), 400, "step_audio.intensity", "0.1")
    refused(change(client, **EMOTION, n_edit_iter=5), 400, "step_audio.n_edit_iter", "4")


def test_a_clone_may_have_an_emotion_or_a_style(client: httpx.Client) -> None:
    plain = ask(client, CLONE)
    for info in ("happy", "whisper"):
        assert not same(plain, ask(client, {**CLONE, "edit_info": info}))
        assert same(ask(client, {**CLONE, "edit_info": info}), ask(client, {"edit_info": info}, voice="hum"))
    refused(ask(client, {**CLONE, "edit_info": "green"}), 400, "step_audio.edit_info", "happy", "whisper")
    refused(ask(client, {**CLONE, "edit_info": "remove"}), 400, "step_audio.edit_info")


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
    refused(at("1x"), 400, "step_audio.edit_info", "more slower")


def test_what_a_mode_does_not_use_is_ignored_and_named(client: httpx.Client) -> None:
    noise = change(client, mode="denoise", edit_info="happy", intensity=2.0, prompt_text="x")
    assert noise.headers["X-StepAudio-Ignored"] == (
        "input, step_audio.edit_info, step_audio.intensity, step_audio.prompt_text"
    )
    assert same(noise, change(client, mode="denoise"))
    assert "X-StepAudio-Ignored" not in ask(client, CLONE).headers
    both = ask(client, {**CLONE, "input_audio_base64": IN_BASE64}, voice="hum")
    assert both.headers["X-StepAudio-Ignored"] == "step_audio.input_audio_base64, voice"
    wish = ask(client, CLONE, instructions="Whisper, please.")
    assert wish.headers["X-StepAudio-Instructions"] == "style=whisper"


def test_errors_name_the_fields_of_the_request(client: httpx.Client) -> None:
    field = "step_audio.input_audio_base64"
    refused(ask(client, {"mode": "vad"}), 400, field, "input_audio_file")
    refused(change(client, mode="vad", input_audio_base64="not base64!"), 400, field, "base64")
    noise = base64.b64encode(b"no sound" * 50).decode()
    refused(change(client, mode="vad", input_audio_base64=noise), 400, field, "can't be read")
    silence = base64.b64encode(wav(np.zeros(48_000))).decode()
    refused(ask(client, {**CLONE, "prompt_audio_base64": silence}), 400, "step_audio.prompt_audio_base64")
    refused(change(client, mode="emotion", edit_info="green"), 400, "step_audio.edit_info", "happy")
    refused(change(client, mode="emotion"), 400, "step_audio.edit_info", "happy")
    refused(change(client, mode="sing"), 400, "step_audio.mode", "paralinguistic")
    refused(change(client, mode="paralinguistic", audio_text="x"), 400, "input", "[Laughter]")
    refused(change(client, mode="vad", colour="green"), 400, "step_audio.colour", "no field")
    refused(ask(client, voice="nobody", stream=True), 400, "voice", "nobody")
    refused(ask(client, {}, input="  "), 400, "input")
    refused(ask(client, {}, metadata={"a": 1}), 400, "metadata.a")
    refused(ask(client, {}, model="gpt-2"), 404, "model")


def test_uploads_have_their_own_mistakes(client: httpx.Client) -> None:
    def post(payload: str | None, **files: tuple[str | None, bytes]) -> httpx.Response:
        data = {} if payload is None else {"payload": payload}
        return client.post(UPLOAD, data=data, files=files or {"other": (None, b"x")})

    good = json.dumps({"input": "x", "step_audio": {"mode": "vad"}})
    refused(post(None, input_audio_file=("a", HUM)), 400, "payload", "required")
    refused(post("{", input_audio_file=("a", HUM)), 400, None, "JSON")
    refused(post(good, input_audio_file=("a", b"")), 400, "input_audio_file", "empty")
    refused(post(good, input_audio_file=("a", b"no sound" * 50)), 400, "input_audio_file", "can't be read")
    refused(post(good), 400, "other")
    refused(client.post(UPLOAD, json={}), 400, None, "multipart")
    inside = json.dumps({"input": "x", "step_audio": {"mode": "vad", "input_audio_base64": IN_BASE64}})
    assert post(inside, prompt_audio_file=("a", HUM)).status_code == 200


# ---- base64


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
