"""Speech over the API: every format, every limit, every error."""

from __future__ import annotations

import io
import socket
import wave

import av
import httpx
import httpx2
import openai
import pytest

from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon

SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello there, this is a voice."}


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon) -> DaemonProcess:
    """One daemon for all tests that don't change it."""
    return start_module_daemon({"limits.max_text": 20_000})


@pytest.fixture
def client(awake: DaemonProcess) -> httpx.Client:
    return awake.shared_client


def post(client: httpx.Client, **changes: object) -> httpx.Response:
    body = {key: value for key, value in (SAY | changes).items() if value is not None}
    return client.post("/v1/audio/speech", json=body)


def refused(response: httpx.Response, status: int, param: str | None, *words: str) -> None:
    """The error has OpenAI's form with all four fields, and names the problem."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["code"]
    for word in words:
        assert word in error["message"]


@pytest.mark.parametrize(
    ("response_format", "media_type", "codec"),
    [
        ("mp3", "audio/mpeg", "mp3"),
        ("opus", "audio/ogg; codecs=opus", "opus"),
        ("aac", "audio/aac", "aac"),
        ("flac", "audio/flac", "flac"),
        ("wav", "audio/wav", "pcm_s16le"),
    ],
)
def test_every_format_is_what_it_says(
    client: httpx.Client, response_format: str, media_type: str, codec: str
) -> None:
    response = post(client, response_format=response_format)
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.headers["X-StepAudio-Model"] == "hibari"
    with av.open(io.BytesIO(response.content), "r") as container:
        stream = container.streams.audio[0]
        samples: int = sum(frame.samples for frame in container.decode(stream))
        seconds = samples / stream.rate
        assert stream.codec_context.name.startswith(codec)
    assert 1 < seconds < 5


def test_pcm_is_24_khz_16_bit_mono(client: httpx.Client) -> None:
    pcm = post(client, response_format="pcm").content
    wav = post(client, response_format="wav", seed=1).content
    with wave.open(io.BytesIO(wav)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (24000, 2, 1)
    assert len(pcm) % 2 == 0
    assert 1 < len(pcm) / 2 / 24000 < 5


def test_mp3_is_the_default(client: httpx.Client) -> None:
    assert post(client).headers["content-type"] == "audio/mpeg"


def test_audio_comes_while_it_is_made(client: httpx.Client) -> None:
    with client.stream(
        "POST", "/v1/audio/speech", json=SAY | {"input": "One sentence after another. " * 50}
    ) as response:
        assert response.headers["transfer-encoding"] == "chunked"
        pieces = sum(1 for _ in response.iter_raw())
    assert pieces > 5


def test_speed_changes_the_duration(client: httpx.Client) -> None:
    slow, normal, fast = (len(post(client, speed=s, response_format="pcm").content) for s in (0.5, 1.0, 2.0))
    assert slow / normal == pytest.approx(2, rel=0.25)
    assert normal / fast == pytest.approx(2, rel=0.25)


def test_the_same_seed_gives_the_same_audio(client: httpx.Client) -> None:
    once, again = (post(client, seed=7, response_format="pcm").content for _ in range(2))
    assert once == again


def test_voice_may_be_an_object(client: httpx.Client) -> None:
    assert post(client, voice={"id": "heart"}).status_code == 200
    refused(post(client, voice={"name": "heart"}), 400, "voice.id", "required")


def test_unsupported_instructions_are_reported_as_ignored(client: httpx.Client) -> None:
    response = post(client, instructions="Whisper.")
    assert response.status_code == 200
    assert response.headers["X-StepAudio-Ignored"] == "instructions"


def test_a_request_has_a_name(client: httpx.Client) -> None:
    assert len(client.get("/healthz").headers["X-Request-Id"]) == 16
    assert client.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
    assert (
        client.get("/healthz", headers={"X-Request-Id": "no spaces"}).headers["X-Request-Id"] != "no spaces"
    )


def test_missing_fields_are_named(client: httpx.Client) -> None:
    for field in ("model", "input", "voice"):
        refused(post(client, **{field: None}), 400, field, "required")


def test_wrong_types_are_named(client: httpx.Client) -> None:
    refused(post(client, input=["a"]), 400, "input")
    refused(post(client, speed="fast"), 400, "speed")
    refused(post(client, voice=3), 400, "voice")
    refused(post(client, response_format="midi"), 400, "response_format", "mp3")
    refused(post(client, speed=5), 400, "speed", "4")
    refused(post(client, speed=0.1), 400, "speed", "0.25")


def test_unspeakable_text_is_refused(client: httpx.Client) -> None:
    for text in ("", "   \n", "🙂🙃", "?!…", "\u200b"):
        refused(post(client, input=text), 400, "input")


def test_broken_unicode_is_refused(client: httpx.Client) -> None:
    for half in ("\\ud800 hello", "hello \\ud800", "hello \\udc00"):
        raw = f'{{"model": "tts-1", "voice": "alloy", "input": "{half}"}}'
        refused(client.post("/v1/audio/speech", content=raw), 400, None, "half a character")


def test_text_over_the_limit_is_refused_with_the_limit(client: httpx.Client) -> None:
    refused(post(client, input="a" * 20_001), 400, "input", "20,000", "limits.max_text")


def test_ten_megabytes_of_text_are_refused_and_the_next_request_is_served(client: httpx.Client) -> None:
    refused(post(client, input="word " * 2_000_000), 413, None, "limits.max_body")
    assert post(client).status_code == 200


def test_unknown_voices_and_models_are_refused_with_those_there_are(client: httpx.Client) -> None:
    refused(post(client, voice="missing"), 400, "voice", "missing", "heart")
    refused(post(client, model="gpt-2"), 404, "model", "gpt-2", "hibari")


def test_unspeakable_languages_name_an_engine_that_supports_them(client: httpx.Client) -> None:
    refused(post(client, model="hibari", input="今天天气很好。"), 422, "input", "kokoro")


def test_what_is_not_json_is_refused(client: httpx.Client) -> None:
    for content in (b"", b"hello", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000):
        response = client.post("/v1/audio/speech", content=content)
        assert response.status_code == 400, content[:20]
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_unknown_paths_and_methods_have_the_same_form(client: httpx.Client) -> None:
    refused(client.get("/v1/nothing"), 404, None)
    refused(client.get("/v1/audio/speech"), 405, None)


def exchange(daemon: DaemonProcess, data: bytes) -> bytes:
    with socket.create_connection(daemon.address, timeout=DEADLINE_S) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


def test_a_header_bomb_is_refused(awake: DaemonProcess, client: httpx.Client) -> None:
    answer = exchange(awake, b"GET / HTTP/1.1\r\nX-Bomb: " + b"a" * 5_000_000)
    assert answer.startswith(b"HTTP/1.1 431")
    assert b'"code"' in answer
    assert client.get("/healthz").status_code == 200


def test_bytes_that_are_not_http_are_refused(awake: DaemonProcess) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"HELO there\r\n\r\n"):
        answer = exchange(awake, data)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b'"invalid_request_error"' in answer


def test_half_a_request_gets_408(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.header": 0.3, "timeouts.body": 0.3})
    assert exchange(daemon, b"GET /healthz HT").startswith(b"HTTP/1.1 408")
    body = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    answer = exchange(daemon, body)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


def test_a_client_that_disconnects_during_its_request_affects_no_other(
    awake: DaemonProcess, client: httpx.Client
) -> None:
    with socket.create_connection(awake.address) as connection:
        connection.sendall(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
        )
    assert post(client).status_code == 200
    assert "Traceback" not in awake.log()


def test_the_official_client_speaks_over_tcp_and_the_unix_socket(awake: DaemonProcess) -> None:
    over_unix = openai.DefaultHttpxClient(transport=httpx2.HTTPTransport(uds=awake.unix_path))
    for http_client, base in ((None, awake.url), (over_unix, "http://localhost")):
        with openai.OpenAI(api_key="none", base_url=f"{base}/v1", http_client=http_client) as ai:
            response = ai.audio.speech.create(
                model="tts-1", voice="nova", input="Hello.", response_format="wav"
            )
            assert response.content.startswith(b"RIFF")
            assert [model.id for model in ai.models.list()]
            with pytest.raises(openai.BadRequestError) as caught:
                ai.audio.speech.create(model="tts-1", voice="missing", input="Hello.")
            assert caught.value.param == "voice"


def test_the_official_client_streams(awake: DaemonProcess) -> None:
    with (
        openai.OpenAI(api_key="none", base_url=f"{awake.url}/v1") as ai,
        ai.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input="A sentence to be read. " * 30, response_format="pcm"
        ) as response,
    ):
        assert sum(1 for _ in response.iter_bytes(4096)) > 10


def test_voices_list_their_openai_names(client: httpx.Client) -> None:
    voices = client.get("/v1/voices", params={"model": "hibari"}).json()
    assert [v["id"] for v in voices] == ["heart"]
    assert "alloy" in voices[0]["openai_names"]
    assert voices[0]["locale"] == "en-US"


def test_models_say_which_one_serves_and_why(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()
    assert models["object"] == "list"
    by_name = {model["id"]: model for model in models["data"]}
    assert by_name["hibari"]["object"] == "model"
    assert "configured" in by_name["hibari"]["default"]


def test_status_has_the_fields_of_the_old_containers(client: httpx.Client) -> None:
    post(client)
    status = client.get("/api/v1/models/status").json()["hibari"]
    assert set(status) >= {
        "loaded", "auto_unload", "idle_timeout", "idle_time", "time_until_unload",
        "gpu_memory_allocated_gb", "gpu_memory_reserved_gb",
    }  # fmt: skip
    assert status["loaded"] is True


def test_a_slow_body_has_a_deadline(start_daemon: StartDaemon) -> None:
    """Each chunk is in time, but the whole body is too late."""
    daemon = start_daemon({"timeouts.body": 30, "timeouts.upload": 1})
    with socket.create_connection(daemon.address, DEADLINE_S) as client:
        client.sendall(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"model": '
        )
        answer = client.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 408")
