"""Fields of other servers and of OpenAI's newest clients: used, or ignored and reported; never refused."""

from __future__ import annotations

import base64
import io
import re
import wave
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from stepaudiod.text.languages import language_code
from stepaudiod.web.ignored_fields import MAX_NAME, MAX_NAMES, ignored
from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav
from tests.web.test_speech import SAY, post, refused

IGNORED = "X-StepAudio-Ignored"
FOREIGN: dict[str, Any] = {
    "user": "u-1",
    "sample_rate": 16_000,
    "temperature": 0.7,
    "download_format": "mp3",
    "exaggeration": 0.5,
    "cfg_weight": {"deep": [1, {"er": None}]},
    "volume_multiplier": 1.2,
    "normalization_options": {"normalize": True},
    "task_type": "Base",
    "ref_audio": "UklGRg==",
    "word_timestamps": [],
    "vad_filter": "",
}
QUIET = wav(0 * hum(0.4))


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon, tmp_path_factory: pytest.TempPathFactory) -> DaemonProcess:
    return start_module_daemon({"data_dir": tmp_path_factory.mktemp("empty")})


@pytest.fixture
def client(awake: DaemonProcess) -> httpx.Client:
    return awake.shared_client


@pytest.fixture
def official(awake: DaemonProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{awake.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def transcribe(client: httpx.Client, data: dict[str, Any] | None = None, **files: Any) -> httpx.Response:
    form = {"model": "whisper-1"} | (data or {})
    return client.post("/v1/audio/transcriptions", data=form, files={"file": QUIET, **files})


def names(response: httpx.Response) -> list[str]:
    """The fields that the response reports as ignored."""
    assert response.status_code == 200, response.text
    return response.headers.get(IGNORED, "").split(", ") if IGNORED in response.headers else []


# ---- speech


def test_foreign_fields_of_speech_are_named_and_change_nothing(client: httpx.Client) -> None:
    plain = post(client, seed=1)
    foreign = post(client, seed=1, **FOREIGN)
    assert names(foreign) == list(FOREIGN)
    assert foreign.content == plain.content
    assert IGNORED not in plain.headers
    inside = post(client, voice={"id": "heart", "style": "sad"})
    assert names(inside) == ["voice.style"]


def test_a_recording_outside_of_the_old_form_is_a_foreign_field(client: httpx.Client) -> None:
    for written in ("!!", base64.b64encode(QUIET).decode()):
        assert names(post(client, prompt_audio_base64=written)) == ["prompt_audio_base64"]


def test_of_two_names_of_a_language_the_unused_one_is_named(client: httpx.Client) -> None:
    assert names(post(client, language="en", lang_code="z")) == ["lang_code"]


@pytest.mark.parametrize("field", FOREIGN)
def test_each_foreign_field_is_accepted_from_the_official_client(official: openai.OpenAI, field: str) -> None:
    answer = official.audio.speech.with_raw_response.create(
        model="tts-1", voice="alloy", input="Hi.", extra_body={field: FOREIGN[field]}
    )
    assert answer.headers[IGNORED] == field


@pytest.mark.parametrize("more", [{"stream": True}, {"stream": False}, {"metadata": {"id": "1"}}])
def test_a_stream_or_metadata_alone_keep_the_default_format(
    client: httpx.Client, more: dict[str, Any]
) -> None:
    answer = post(client, **more)
    assert answer.headers["content-type"] == "audio/mpeg"
    assert names(answer) == []
    assert answer.headers.get("x-metadata-id") == more.get("metadata", {}).get("id")


@pytest.mark.parametrize(
    "metadata", [{"deep": {"er": 1}}, "text", 3, [], {"a b": "x"}, {str(n): "x" for n in range(99)}]
)
def test_metadata_of_another_kind_is_named(client: httpx.Client, metadata: object) -> None:
    assert names(post(client, metadata=metadata)) == ["metadata"]


def test_null_is_absent(client: httpx.Client) -> None:
    optional = ("response_format", "speed", "seed", "language", "stream_format", "instructions", "lang_code")
    body = SAY | dict.fromkeys([*optional, "stream", "metadata", "user", "step_audio"])
    answer = client.post("/v1/audio/speech", json=body)
    assert answer.headers["content-type"] == "audio/mpeg"
    assert names(answer) == []
    refused(client.post("/v1/audio/speech", json=SAY | {"input": None}), 400, "input", "required")


def test_wrong_values_of_known_fields_are_still_refused(client: httpx.Client) -> None:
    refused(post(client, speed="fast", user="x"), 400, "speed")
    refused(post(client, stream="perhaps"), 400, "stream")
    refused(post(client, language=3), 400, "language")
    refused(post(client, instructions=["whisper"]), 400, "instructions")


def test_instructions_have_a_longest_length(client: httpx.Client) -> None:
    assert post(client, instructions="x" * 4096).status_code == 200
    refused(post(client, instructions="x" * 4097), 400, "instructions", "4096")


def test_names_in_the_header_are_safe_and_few(client: httpx.Client) -> None:
    tricky = {"a\r\nX-Evil: 1": 1, "naïve, 声": 1, "": 1, "n" * 5000: 1, "x": 1}
    answer = post(client, **tricky)
    assert "x-evil" not in answer.headers
    listed = names(answer)
    assert listed[0] == "a%0D%0AX-Evil%3A%201"
    assert all(re.fullmatch(r"[\w.~%\[\]-]{0,64}", name, re.ASCII) for name in listed)
    many = names(post(client, **{f"field{n}": n for n in range(2000)}))
    assert many[-1] == "and 1984 more"
    assert len(many) == MAX_NAMES + 1
    assert len(ignored(["\ud800" * 99])[IGNORED]) == MAX_NAME


@pytest.mark.parametrize(
    ("language", "unused"),
    [("en", []), ("en-US", []), ("English", []), ("auto", []), ("", []), (" EN_gb ", []), ("eng", [])],
)
def test_a_language_that_the_voice_speaks_is_taken(
    client: httpx.Client, language: str, unused: list[str]
) -> None:
    assert names(post(client, language=language)) == unused


def test_a_language_that_it_does_not_speak_is_refused(client: httpx.Client) -> None:
    for language in ("zh", "fr-FR", "Klingon"):
        refused(post(client, language=language), 400, "language", "speaks English", language)


@pytest.mark.parametrize(
    ("letter", "unused"),
    [("a", []), ("b", []), ("en-us", []), ("", []), ("z", ["lang_code"]), ("fr", ["lang_code"])],
)
def test_kokoros_letter_of_a_language_is_understood(
    client: httpx.Client, letter: str, unused: list[str]
) -> None:
    assert names(post(client, lang_code=letter)) == unused


@pytest.mark.slow
def test_a_language_that_is_not_the_texts_is_named(
    start_daemon: StartDaemon, step_audio: DaemonProcess
) -> None:
    kokoro = start_daemon({"engine": "auto"}).shared_client
    if "kokoro" not in [model["id"] for model in kokoro.get("/v1/models").json()["data"]]:
        pytest.skip("kokoro is not installed")
    assert names(post(kokoro, language="zh")) == ["language"]
    assert names(post(kokoro, language="zh", input="你好。")) == []
    say = {"model": "step-audio-editx", "voice": "hum", "input": "Hello.", "seed": 1}
    large = step_audio.shared_client
    spoken = [post(large, **say, language=language) for language in ("Cantonese", "yue-HK", "cantonese")]
    assert [names(answer) for answer in spoken] == [[], [], []]
    assert spoken[0].content == spoken[1].content == spoken[2].content != post(large, **say).content


# ---- transcriptions


def test_the_newest_fields_of_openai_are_taken(official: openai.OpenAI) -> None:
    answer = official.audio.transcriptions.with_raw_response.create(
        model="gpt-transcribe",
        file=("quiet.wav", QUIET),
        include=["logprobs"],
        chunking_strategy="auto",
        keywords=["stepaudiod", "canoe"],
        languages=["en"],
        known_speaker_names=["mei"],
        known_speaker_references=["data:audio/wav;base64,UklGRg=="],
        timestamp_granularities=["segment"],
        temperature=0.0,
    )
    assert answer.headers[IGNORED] == "include[], known_speaker_names[], known_speaker_references[]"
    tuned = official.audio.transcriptions.with_raw_response.create(
        model="whisper-1",
        file=("quiet.wav", QUIET),
        chunking_strategy={"type": "server_vad", "threshold": 0.5},
    )
    assert tuned.headers[IGNORED] == "chunking_strategy[type], chunking_strategy[threshold]"


def test_keywords_guide_the_transcription(official: openai.OpenAI) -> None:
    """When read aloud, a name may be spelled in several ways; a keyword decides."""
    speech = official.audio.speech.create(
        model="tts-1",
        voice="alloy",
        input="Yesterday I met Katherine.",
        response_format="wav",
        extra_body={"seed": 1},
    ).content

    def heard(**more: Any) -> str:
        said = official.audio.transcriptions.create(model="whisper-1", file=("said.wav", speech), **more)
        return str(said.text)

    assert "Kathryn" not in heard()
    assert "Kathryn" in heard(keywords=["Kathryn", "Kathryn Jansen"])


@pytest.mark.parametrize(
    "language", ["", "auto", "en", "en-US", "en_GB", "English", "ENGLISH", "eng", "null"]
)
def test_languages_in_every_spelling(client: httpx.Client, language: str) -> None:
    answer = transcribe(client, {"language": language, "response_format": "verbose_json"})
    assert names(answer) == []
    assert answer.json()["language"] == "en"


def test_languages_that_it_cannot_hear_are_refused(client: httpx.Client) -> None:
    for language, code in (("zh-CN", "zh"), ("Chinese", "zh"), ("中文", "zh"), ("Klingon", "klingon")):
        answer = transcribe(client, {"language": language})
        refused(answer, 422, "language", repr(code))
    refused(transcribe(client, {"languages[]": ["de"]}), 422, "languages[]", "'de'")


def test_several_languages_leave_it_open(client: httpx.Client) -> None:
    assert names(transcribe(client, {"languages[]": ["en", "de"]})) == ["languages[]"]
    assert names(transcribe(client, {"languages": ["en", "de"]})) == ["languages[]"]
    assert names(transcribe(client, {"languages[]": "en"})) == []


def test_an_empty_field_of_a_form_is_absent(client: httpx.Client) -> None:
    empty = (
        "language", "prompt", "temperature", "response_format", "stream", "timestamp_granularities[]",
        "include[]", "chunking_strategy", "keywords[]", "languages[]", "hotwords",
    )  # fmt: skip
    answer = transcribe(client, dict.fromkeys(empty, ""))
    assert names(answer) == []
    assert set(answer.json()) == {"text", "usage"}
    refused(transcribe(client, {"model": ""}), 400, "model", "required")


def test_lists_come_with_and_without_brackets(client: httpx.Client) -> None:
    for name in ("timestamp_granularities[]", "timestamp_granularities"):
        answer = transcribe(client, {"response_format": "verbose_json", name: ["word", "segment"]})
        assert {"words", "segments"} <= set(answer.json())
        one = transcribe(client, {"response_format": "verbose_json", name: "word"})
        assert "segments" not in one.json()


def test_foreign_fields_of_a_transcription_are_named(client: httpx.Client) -> None:
    foreign = {"vad_filter": "true", "word_timestamps": ["a", "b"], "hotwords": "x", "diarize": "1"}
    assert names(transcribe(client, foreign)) == ["vad_filter", "word_timestamps", "hotwords", "diarize"]
    assert names(transcribe(client, {}, speaker=("s.wav", QUIET))) == ["speaker"]


def test_wrong_values_of_a_transcription_are_still_refused(client: httpx.Client) -> None:
    refused(transcribe(client, {"temperature": "7"}), 400, "temperature")
    refused(transcribe(client, {"response_format": "docx"}), 400, "response_format", "verbose_json")
    refused(transcribe(client, {"chunking_strategy": "sometimes"}), 400, "chunking_strategy", "auto")
    refused(transcribe(client, {"include[]": ["poems"]}), 400, "include[]", "logprobs")
    refused(transcribe(client, {"timestamp_granularities[]": ["wrd"]}), 400, "timestamp_granularities[]")
    refused(transcribe(client, {"model": ["whisper-1", "whisper-1"]}), 400, "model", "twice")
    as_file = client.post("/v1/audio/transcriptions", files={"file": QUIET, "model": ("m", b"whisper-1")})
    refused(as_file, 400, "model", "is a file")


# ---- voices and edits


def test_foreign_fields_of_voices_and_edits_are_named(step_audio: DaemonProcess) -> None:
    client = step_audio.shared_client
    fields = {"name": "Foreign", "consent": "mine", "transcript": "a hum", "ref_text": "x", "language": ""}
    made = client.post("/v1/audio/voices", data=fields, files={"audio_sample": wav(hum())})
    client.delete("/v1/audio/voices/foreign")
    assert names(made) == ["ref_text"]
    form = {"mode": "denoise", "seed": "1", "edit_info": "", "strength": "3", "user": "u"}
    edited = client.post("/v1/audio/edits", data=form, files={"file": wav(hum())}, timeout=300)
    assert names(edited) == ["strength", "user"]
    with wave.open(io.BytesIO(edited.content)) as sound:
        assert sound.getframerate() == 24_000


def test_the_document_says_that_more_fields_may_come(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name in ("SpeechForm", "OldSpeechForm", "StepAudioForm", "VoiceId"):
        assert schemas[name].get("additionalProperties", True) is True, name
    fields = schemas["TranscriptionForm"]
    assert fields.get("additionalProperties", True) is True
    assert {"keywords[]", "languages[]", "include[]", "chunking_strategy"} <= set(fields["properties"])
    assert schemas["SpeechForm"]["properties"]["instructions"]["anyOf"][0]["maxLength"] == 4096
    for path in ("/v1/audio/speech", "/v1/audio/edits", "/v1/audio/transcriptions", "/v1/audio/voices"):
        assert IGNORED in document["paths"][path]["post"]["responses"]["200"]["headers"], path


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("en", "en"),
        ("EN-us", "en"),
        ("zh_Hans_CN", "zh"),
        ("yue-HK", "yue"),
        ("cmn-Hant", "zh"),
        ("Deutsch", "de"),
        ("français", "fr"),
        ("日本語", "ja"),
        ("haitian", "ht"),
        (" Auto ", ""),
        ("xx-YY", "xx"),
        ("tlhIngan", "tlhingan"),
    ],
)
def test_a_language_has_one_code(text: str, code: str) -> None:
    assert language_code(text) == code
