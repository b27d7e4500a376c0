"""Transcriptions over the API, in every format that OpenAI's clients request."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav

SAID = "The boy was there when the sun rose. A rod is used to catch pink salmon."


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon, tmp_path_factory: pytest.TempPathFactory) -> DaemonProcess:
    return start_module_daemon({"data_dir": tmp_path_factory.mktemp("empty")})


@pytest.fixture(scope="module")
def spoken(awake: DaemonProcess) -> bytes:
    """The daemon's own voice, as an mp3."""
    say = {"model": "tts-1", "voice": "alloy", "input": SAID, "seed": 1}
    return awake.shared_client.post("/v1/audio/speech", json=say).content


@pytest.fixture(scope="module")
def client(awake: DaemonProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{awake.url}/v1", api_key="unused") as client:
        yield client


@pytest.fixture(scope="module")
def chinese(awake: DaemonProcess) -> bytes:
    """A recording in a language that the installed recogniser doesn't support."""
    say = {"model": "kokoro", "voice": "zf_xiaobei", "input": "今天天气不错，我们一起去公园散步吧。"}
    answer = awake.shared_client.post("/v1/audio/speech", json=say)
    if answer.status_code != 200:
        pytest.skip("kokoro is not installed")
    return answer.content


def plain(text: str) -> str:
    return re.sub(r"[^a-z ]", "", text.lower()).strip()


def test_json_is_the_text_and_its_length(client: openai.OpenAI, spoken: bytes) -> None:
    heard = client.audio.transcriptions.create(model="whisper-1", file=("said.mp3", spoken))
    assert plain(heard.text) == plain(SAID)
    assert heard.usage is not None
    assert heard.usage.type == "duration"
    assert 3 < heard.usage.seconds < 8


def test_verbose_json_has_segments_and_words_in_order(client: openai.OpenAI, spoken: bytes) -> None:
    heard = client.audio.transcriptions.create(
        model="whisper-tiny.en",
        file=("said.mp3", spoken),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert heard.language == "en"
    assert heard.segments
    assert heard.words
    times = [time for word in heard.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[-1] <= heard.duration
    assert plain(" ".join(word.word for word in heard.words)) == plain(SAID)
    assert heard.segments[0].avg_logprob < 0
    assert heard.segments[0].tokens


@pytest.mark.slow
def test_subtitles_have_the_times(awake: DaemonProcess, spoken: bytes) -> None:
    def ask(response_format: str) -> httpx.Response:
        data = {"model": "whisper-1", "response_format": response_format}
        answer = awake.shared_client.post("/v1/audio/transcriptions", data=data, files={"file": spoken})
        assert answer.status_code == 200, answer.text
        return answer

    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\nThe boy", ask("srt").text)
    vtt = ask("vtt")
    assert vtt.headers["content-type"] == "text/vtt; charset=utf-8"
    assert re.match(r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:0\d\.\d{3}\nThe boy", vtt.text)
    assert plain(ask("text").text) == plain(SAID)


def test_a_stream_ends_with_all_of_it(client: openai.OpenAI, spoken: bytes) -> None:
    stream = client.audio.transcriptions.create(model="whisper-1", file=("said.mp3", spoken), stream=True)
    *deltas, done = list(stream)
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == done.text
    assert plain(done.text) == plain(SAID)


def test_unsupported_languages_are_refused(client: openai.OpenAI, spoken: bytes) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="models pull") as chinese:
        client.audio.transcriptions.create(model="whisper-1", file=("said.mp3", spoken), language="zh")
    assert chinese.value.param == "language"
    with pytest.raises(openai.UnprocessableEntityError, match=r"whisper-tiny\.en"):
        client.audio.transcriptions.create(model="hibari", file=("said.mp3", spoken))
    with pytest.raises(openai.BadRequestError, match="can't be read"):
        client.audio.transcriptions.create(model="whisper-1", file=("said.mp3", b"nothing" * 99))
    with pytest.raises(openai.BadRequestError, match="is empty"):
        client.audio.transcriptions.create(model="whisper-1", file=("said.mp3", b""))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{}, {"response_format": "verbose_json"}, {"stream": "true"}, {"language": "en"}]
)
def test_a_recording_in_chinese_is_no_english(
    awake: DaemonProcess, chinese: bytes, more: dict[str, str]
) -> None:
    data = {"model": "whisper-1"} | more
    answer = awake.shared_client.post("/v1/audio/transcriptions", data=data, files={"file": chinese})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported", "file")
    for word in ("doesn't sound like English", "tiny.en supports English only", "models pull whisper"):
        assert word in error["message"]


@pytest.mark.slow
def test_an_uncertain_transcript_is_not_used_for_a_voice(awake: DaemonProcess, chinese: bytes) -> None:
    form, sample = {"name": "Bei", "consent": "our own"}, {"audio_sample": ("bei.mp3", chinese)}
    answer = awake.shared_client.post("/v1/audio/voices", data=form, files=sample)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == "transcript"
    assert "'transcript' is required" in error["message"]
    assert "English only" in error["message"]
    assert awake.shared_client.get("/v1/audio/voices/bei").status_code == 404
    told = form | {"transcript": "今天天气不错，我们一起去公园散步吧。"}
    kept = awake.shared_client.post("/v1/audio/voices", data=told, files=sample).json()
    assert kept["transcript"] == told["transcript"]


def test_silence_has_no_words(client: openai.OpenAI) -> None:
    heard = client.audio.transcriptions.create(model="whisper-1", file=("quiet.wav", wav(0 * hum())))
    assert heard.text == ""


def test_a_voice_without_a_transcript_is_transcribed(client: openai.OpenAI, spoken: bytes) -> None:
    made = client.audio.voices.create(name="Heart", consent="our own", audio_sample=("said.mp3", spoken))
    mine = client.get(f"/audio/voices/{made.id}", cast_to=object)
    assert isinstance(mine, dict)
    assert plain(mine["transcript"]) == plain(SAID)
    with pytest.raises(openai.BadRequestError, match="no words"):
        client.audio.voices.create(name="Silent", consent="yes", audio_sample=("hum.wav", wav(0.01 * hum())))


def test_small_edits_do_not_load_the_large_model(awake: DaemonProcess, spoken: bytes) -> None:
    form = {"mode": "speed", "edit_info": "more faster", "response_format": "mp3"}
    answer = awake.shared_client.post("/v1/audio/edits", data=form, files={"file": spoken})
    assert answer.headers["X-StepAudio-Model"] == "studio"
    heard = awake.shared_client.post(
        "/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": answer.content}
    ).json()
    assert "sun rose" in plain(heard["text"])
    emotion = {"mode": "emotion", "edit_info": "happy"}
    refused = awake.shared_client.post("/v1/audio/edits", data=emotion, files={"file": spoken})
    assert refused.status_code == 503
    assert "models pull" in refused.json()["error"]["message"]
