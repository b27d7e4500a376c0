"""The official client over TCP and the unix socket, sync and async: its features and its errors."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest

from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav

SAY: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": "Hello there, this is a voice."}


def over_tcp(daemon: DaemonProcess, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", **options)


def over_unix(daemon: DaemonProcess) -> openai.OpenAI:
    transport = httpx2.HTTPTransport(uds=daemon.unix_path)
    client = openai.DefaultHttpxClient(transport=transport)
    return openai.OpenAI(base_url="http://localhost/v1", api_key="unused", http_client=client)


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon, tmp_path_factory: pytest.TempPathFactory) -> DaemonProcess:
    return start_module_daemon({"data_dir": tmp_path_factory.mktemp("empty")})


@pytest.fixture(params=[over_tcp, over_unix])
def client(request: pytest.FixtureRequest, awake: DaemonProcess) -> Iterator[openai.OpenAI]:
    with request.param(awake) as made:
        yield made


def test_it_speaks_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.audio.speech.create(**SAY, response_format="wav").content
    assert whole.startswith(b"RIFF")
    with client.audio.speech.with_streaming_response.create(**SAY, response_format="pcm") as response:
        pieces = list(response.iter_bytes(1024))
    assert len(pieces) > 5


def test_events_carry_the_audio_and_the_usage(client: openai.OpenAI) -> None:
    wanted = SAY | {"response_format": "pcm", "stream_format": "sse"}
    with client.audio.speech.with_streaming_response.create(**wanted) as response:
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    pcm = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["input_tokens"] == len(SAY["input"])
    assert usage["output_tokens"] == pytest.approx(len(pcm) / 2 / 24000 * 50, abs=1)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_models_are_listed_and_fetched(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert "hibari" in [model.id for model in models]
    model = client.models.retrieve("hibari")
    assert (model.object, model.owned_by) == ("model", "stepaudiod")
    assert client.models.with_raw_response.list().headers["x-request-id"]


def test_a_voice_is_made_listed_and_deleted(client: openai.OpenAI) -> None:
    made = client.audio.voices.create(
        name="小美",
        consent="Mei agreed on the phone",
        audio_sample=("mei.wav", wav(hum())),
        extra_body={"transcript": "你好。"},
    )
    assert made.object == "audio.voice"
    listed = client.get("/audio/voices", cast_to=httpx2.Response).json()["data"]
    mine = next(voice for voice in listed if voice["id"] == made.id)
    assert (mine["name"], mine["transcript"]) == ("小美", "你好。")
    assert any(voice["type"] == "built_in" for voice in listed)
    recording = client.get(f"/audio/voices/{made.id}/recording", cast_to=httpx2.Response)
    assert recording.content == wav(hum())
    with pytest.raises(openai.BadRequestError, match="already"):
        client.audio.voices.create(name="小美", consent="yes", audio_sample=("mei.wav", wav(hum())))
    assert client.audio.voices.delete(made.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.audio.voices.delete(made.id)


def test_invalid_voices_are_not_stored(client: openai.OpenAI) -> None:
    for sample, reason in ((b"not a sound" * 100, "can't be read"), (wav(0 * hum()), "silent")):
        with pytest.raises(openai.BadRequestError, match=reason) as caught:
            client.audio.voices.create(
                name="Silent", consent="yes", audio_sample=("x.wav", sample), extra_body={"transcript": "x"}
            )
        assert caught.value.param == "audio_sample"
    with pytest.raises(openai.BadRequestError, match="consent"):
        client.audio.voices.create(name="Silent", consent="", audio_sample=("x.wav", wav(hum())))
    with pytest.raises(openai.BadRequestError, match="comes with an engine"):
        client.audio.voices.delete("heart")


def test_errors_arrive_as_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.audio.speech.create(**SAY | {"model": "missing"})
    assert missing.value.code == "not_found"
    with pytest.raises(openai.UnprocessableEntityError) as unsupported:
        client.audio.speech.create(**SAY | {"input": "你好"})
    assert unsupported.value.param == "input"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.audio.speech.create(**SAY, speed=9)
    assert wrong.value.type == "invalid_request_error"


def test_the_async_client_speaks_to_several_at_once(awake: DaemonProcess) -> None:
    async def speak() -> list[bytes]:
        async with openai.AsyncOpenAI(base_url=f"{awake.url}/v1", api_key="unused") as client:
            texts = [f"This is number {n}." for n in range(6)]
            made = [
                client.audio.speech.create(**SAY | {"input": text}, response_format="wav") for text in texts
            ]
            return [response.content for response in await asyncio.gather(*made)]

    assert all(content.startswith(b"RIFF") for content in asyncio.run(speak()))


def test_the_client_retries_a_full_queue(start_daemon: StartDaemon) -> None:
    """429 with Retry-After: the client retries, and is served once there is capacity."""
    daemon = start_daemon({"limits.concurrency": 1, "limits.max_queue": 0})
    long = SAY | {"input": "This is one more sentence of a long text. " * 2000, "response_format": "wav"}
    refused = threading.Event()

    def note(response: httpx2.Response) -> None:
        if response.status_code == 429:
            refused.set()

    noting = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    with over_tcp(daemon, max_retries=5, http_client=noting) as client, ThreadPoolExecutor(1) as pool:
        with daemon.client() as http, http.stream("POST", "/v1/audio/speech", json=long) as response:
            chunks = response.iter_raw()
            next(chunks)
            waiting = pool.submit(lambda: client.audio.speech.create(**SAY, response_format="wav").content)
            assert refused.wait(DEADLINE_S)
        assert waiting.result(DEADLINE_S).startswith(b"RIFF")


def test_a_large_recording_is_uploaded_completely(awake: DaemonProcess, tmp_path: Path) -> None:
    """A file that is larger than the part kept in memory."""
    large = wav(hum(60.0))
    with over_unix(awake) as client:
        made = client.audio.voices.create(
            name="Long", consent="yes", audio_sample=("long.wav", large), extra_body={"transcript": "hm"}
        )
        recording = client.get(f"/audio/voices/{made.id}/recording", cast_to=httpx2.Response)
        assert recording.content == large
        client.audio.voices.delete(made.id)
    assert httpx.get(f"{awake.url}/healthz").status_code == 200
