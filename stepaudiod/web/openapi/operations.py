"""Every path of the API, one entry each. A route without an entry here fails a test.

Schemas of requests are those that validate (`web/schemas.py`); those of answers are in `answers.py`.
"""

from __future__ import annotations

from typing import Any

from stepaudiod import errors
from stepaudiod.audio.formats import MEDIA_TYPES
from stepaudiod.web.openapi import answers
from stepaudiod.web.openapi.examples import (
    ALIAS,
    BUILT_IN,
    DAEMON_STATUS,
    DURATION,
    MADE,
    MODEL,
    MODEL_STATUS,
    SAID,
    SEGMENT,
    SPEAKER,
    events,
)
from stepaudiod.web.openapi.failures import NAMES_A_MODEL, READS, WORKS
from stepaudiod.web.openapi.parts import (
    EVENTS,
    HTML,
    JSON,
    TEXT,
    Answer,
    Body,
    Content,
    Operation,
    Parameter,
)
from stepaudiod.web.schemas import (
    EditForm,
    OldSpeechForm,
    SpeechForm,
    TranscriptionForm,
    UploadForm,
    VoiceForm,
)
from stepaudiod.web.voices import RECORDING_TYPES, UNKNOWN_TYPE

SPEECH, EDITING, LISTENING, VOICES, MODELS, DAEMON = (
    "Speech",
    "Edits",
    "Transcriptions",
    "Voices",
    "Models",
    "The daemon",
)

AUDIO = {media_type: Content() for media_type in MEDIA_TYPES.values()}
RECORDED = {media_type: Content() for media_type in (*RECORDING_TYPES.values(), UNKNOWN_TYPE)}
SPOKEN = (
    "X-StepAudio-Model",
    "X-StepAudio-Synthetic",
    "X-StepAudio-Seed",
    "X-StepAudio-Pieces",
    "X-StepAudio-Warning",
)
OF_SPEECH = (*SPOKEN, "X-StepAudio-Voice", "X-StepAudio-Instructions", "X-StepAudio-Ignored")
SPEECH_EVENTS = Content(
    events=(answers.SpeechAudioDelta, answers.SpeechAudioDone, answers.Error),
    example=events(
        {"type": "speech.audio.delta", "audio": "UklGRv////9XQVZF"},
        {
            "type": "speech.audio.done",
            "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        },
    ),
)

RECORDING = (
    "a recording: wav, mp3, flac, ogg, opus, m4a, webm and their kin. At most {limits.max_upload} bytes with "
    "everything else of the request (limits.max_upload), {limits.max_audio} seconds (limits.max_audio), "
    "{limits.max_channels} channels (limits.max_channels), {limits.max_sample_rate} samples a second "
    "(limits.max_sample_rate)"
)


def _path(name: str, description: str, example: str) -> Parameter:
    return Parameter(name, "path", description, example)


def _json(description: str, schema: type[Any], example: Any) -> dict[int, Answer]:
    return {200: Answer(description, {JSON: Content(schema, example)})}


VOICE_ID = _path("id", "a voice of the library", "aunt-mei")

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/audio/speech"): Operation(
        "createSpeech",
        SPEECH,
        "Speak a text, in OpenAI's form",
        {
            200: Answer(
                "Audio, sent while it is made; or events, where `stream_format` is `sse`. When the work "
                "fails after the first of it, the connection is cut without the end that HTTP asks for; an "
                "event stream says the error first.",
                {
                    **AUDIO,
                    EVENTS: SPEECH_EVENTS,
                },
                OF_SPEECH,
            )
        },
        (*READS, *WORKS),
        Body(
            SpeechForm,
            {"model": "tts-1", "voice": "alloy", "input": "Hello. I was asleep until you called."},
            other=OldSpeechForm,
        ),
        description="`pcm` is 24 kHz, 16 bit, little-endian, mono, without a header. The body is read as "
        "JSON whatever its `Content-Type` says.",
    ),
    ("POST", "/v1/audio/speech/upload"): Operation(
        "createSpeechFromUploads",
        SPEECH,
        "Speak or edit in the old containers' form, with recordings as files",
        {
            200: Answer(
                "Audio, or events, as for /v1/audio/speech.", {**AUDIO, EVENTS: SPEECH_EVENTS}, OF_SPEECH
            )
        },
        (*READS, *WORKS),
        Body(
            UploadForm,
            {"payload": '{"input": "Hello.", "step_audio": {"mode": "clone", "prompt_text": "Hi there."}}'},
            {"prompt_audio_file": RECORDING, "input_audio_file": RECORDING},
            ("prompt_audio_file", "input_audio_file"),
        ),
        description="`payload` is the JSON of `OldSpeechForm`. What is in its `metadata` comes back in "
        "headers `x-metadata-NAME`.",
    ),
    ("POST", "/v1/audio/edits"): Operation(
        "createEdit",
        EDITING,
        "Change a recording: its emotion, style or speed, its noise and silence, its laughs and sighs",
        {
            200: Answer(
                "The changed recording, sent while it is made.",
                AUDIO,
                (*SPOKEN, "X-StepAudio-Ignored", "X-StepAudio-Transcript", "X-StepAudio-Reference-Stretch"),
            )
        },
        (*READS, *WORKS),
        Body(EditForm, {"mode": "emotion", "edit_info": "happy", "transcript": SAID}, {"file": RECORDING}),
        description="`GET /v1/tags` lists the modes and what each can be told.",
    ),
    ("GET", "/v1/tags"): Operation(
        "listTags",
        EDITING,
        "Every edit, what it can be told, and which models can do it here",
        _json(
            "The modes.",
            answers.Tags,
            {
                "data": {"speed": ["faster", "slower", "more faster", "more slower"], "denoise": []},
                "languages": ["Cantonese"],
                "models": {"speed": ["step-audio-editx"], "denoise": ["step-audio-editx"]},
                "missing": {"transcribe": "install the recogniser: apt install stepaudiod-voices"},
            },
        ),
    ),
    ("POST", "/v1/audio/transcriptions"): Operation(
        "createTranscription",
        LISTENING,
        "Write down what a recording says, in OpenAI's form",
        {
            200: Answer(
                "The text, in the form that `response_format` asks for; events, where `stream` is true.",
                {
                    JSON: Content(
                        answers.AnyTranscription,
                        {
                            "task": "transcribe",
                            "language": "en",
                            "duration": 2.9,
                            "text": SAID,
                            "segments": [SEGMENT],
                            "usage": DURATION,
                        },
                    ),
                    TEXT: Content(example=f"{SAID}\n"),
                    "text/vtt; charset=utf-8": Content(
                        example=f"WEBVTT\n\n00:00:00.000 --> 00:00:02.900\n{SAID}\n"
                    ),
                    EVENTS: Content(
                        events=(answers.TranscriptTextDelta, answers.TranscriptTextDone, answers.Error),
                        example=events(
                            {"type": "transcript.text.delta", "delta": SAID},
                            {
                                "type": "transcript.text.done",
                                "text": SAID,
                                "usage": {
                                    "type": "tokens",
                                    "input_tokens": 0,
                                    "output_tokens": 12,
                                    "total_tokens": 12,
                                },
                            },
                        ),
                    ),
                },
                ("X-StepAudio-Model", "X-StepAudio-Ignored"),
            )
        },
        (*READS, *WORKS),
        Body(TranscriptionForm, {"model": "whisper-1"}, {"file": RECORDING}),
    ),
    ("POST", "/v1/audio/voices"): Operation(
        "createVoice",
        VOICES,
        "Make a voice from a recording, in OpenAI's form",
        {
            200: Answer(
                "The voice; speech requests may name it from now on.",
                {JSON: Content(answers.MadeVoice, MADE)},
                ("X-StepAudio-Ignored",),
                links=dict.fromkeys(("getVoice", "deleteVoice", "getVoiceRecording"), "id"),
            )
        },
        (*READS, *WORKS),
        Body(
            VoiceForm,
            {"name": "Aunt Mei", "consent": "Mei agreed on 2 May", "transcript": SAID},
            {"audio_sample": RECORDING},
        ),
    ),
    ("GET", "/v1/audio/voices"): Operation(
        "listVoices",
        VOICES,
        "All voices: those that people made, and those that come with the engines",
        _json(
            "The voices; `voices` has those that `tts-1` means now, or those of `model`.",
            answers.VoiceList,
            {
                "object": "list",
                "data": [MADE, BUILT_IN],
                "has_more": False,
                "voices": [{"id": "heart", "name": "heart"}],
            },
        ),
        NAMES_A_MODEL,
        parameters=(Parameter("model", "query", "the voices of this model alone", "hibari"),),
    ),
    ("GET", "/v1/audio/voices/{id}"): Operation(
        "getVoice",
        VOICES,
        "One voice that somebody made",
        _json("The voice.", answers.MadeVoice, MADE),
        (errors.NotFound,),
        parameters=(VOICE_ID,),
    ),
    ("DELETE", "/v1/audio/voices/{id}"): Operation(
        "deleteVoice",
        VOICES,
        "Delete a voice and everything that was made of it",
        _json(
            "It is gone.",
            answers.DeletedVoice,
            {"id": "aunt-mei", "object": "audio.voice.deleted", "deleted": True},
        ),
        (errors.InvalidRequest, errors.NotFound),
        parameters=(VOICE_ID,),
    ),
    ("GET", "/v1/audio/voices/{id}/recording"): Operation(
        "getVoiceRecording",
        VOICES,
        "The recording that a voice was made from, as it came",
        {
            200: Answer("The recording.", RECORDED, ("Accept-Ranges",)),
            206: Answer("A stretch of it.", RECORDED, ("Accept-Ranges", "Content-Range")),
        },
        (errors.NotFound,),
        parameters=(
            VOICE_ID,
            Parameter(
                "Range", "header", "one stretch of bytes; anything else is ignored", "bytes=0-1023", "^bytes="
            ),
        ),
    ),
    ("GET", "/v1/voices"): Operation(
        "listSpeakers",
        VOICES,
        "The voices of one model, in the old containers' form",
        _json("The voices; without `model`, of the model that serves.", answers.Speakers, [SPEAKER]),
        NAMES_A_MODEL,
        parameters=(Parameter("model", "query", "whose voices", "hibari"),),
    ),
    ("GET", "/v1/models"): Operation(
        "listModels",
        MODELS,
        "What is installed, the best first, and OpenAI's names for what serves",
        _json("The models.", answers.ModelList, {"object": "list", "data": [MODEL, ALIAS]}),
    ),
    ("GET", "/v1/audio/models"): Operation(
        "listSpeechModels",
        MODELS,
        "Those of /v1/models that speak",
        _json(
            "The models; `models` has their ids, as Kokoro-FastAPI's clients look for them.",
            answers.SpeechModelList,
            {"object": "list", "data": [MODEL, ALIAS], "models": [{"id": "hibari"}, {"id": "tts-1"}]},
        ),
    ),
    ("GET", "/v1/models/{id}"): Operation(
        "getModel",
        MODELS,
        "One model; a variant too, and what a customary name such as `tts-1-1106` or "
        "`openai/whisper-large-v3` stands for",
        _json("The model.", answers.Model, MODEL),
        NAMES_A_MODEL,
        parameters=(_path("id", "a model's id", "hibari"),),
    ),
    ("GET", "/api/v1/models/status"): Operation(
        "getStatus",
        MODELS,
        "What is loaded, what is being done, when it sleeps",
        _json(
            "Each model by its id, and `daemon`.",
            answers.Status,
            {"hibari": MODEL_STATUS, "daemon": DAEMON_STATUS},
        ),
    ),
    ("POST", "/api/v1/models/{name}/unload"): Operation(
        "unloadModel",
        MODELS,
        "End the worker: nothing of the model stays in memory",
        _json(
            "It is unloaded; `unloaded` is false where it wasn't loaded.",
            answers.Unloaded,
            {"model": "hibari", "unloaded": True},
        ),
        (*NAMES_A_MODEL, errors.Busy),
        parameters=(_path("name", "a model's id", "hibari"),),
    ),
    ("GET", "/healthz"): Operation(
        "getHealth",
        DAEMON,
        "The daemon is alive",
        _json("It is.", answers.Health, {"status": "ok"}),
        description="It says nothing of the engine and wakes nothing.",
    ),
    ("GET", "/readyz"): Operation(
        "getReadiness",
        DAEMON,
        "Whether a request could be served, and why not",
        {
            **_json(
                "It could.",
                answers.Ready,
                {"status": "ready", "reasons": [], "engine": "hibari", "why": "the best that is installed"},
            ),
            503: Answer("It couldn't.", {JSON: Content(answers.ReadinessProblem)}, ("Retry-After",)),
        },
        description="It wakes nothing.",
    ),
    ("GET", "/metrics"): Operation(
        "getMetrics",
        DAEMON,
        "Counters, in Prometheus's form",
        {
            200: Answer(
                "The counters; as OpenMetrics where `Accept` asks for it. It wakes nothing.",
                {
                    "text/plain; version=0.0.4; charset=utf-8": Content(
                        example="# TYPE stepaudiod_requests_active gauge\nstepaudiod_requests_active 0.0\n"
                    ),
                    "application/openmetrics-text; version=1.0.0; charset=utf-8": Content(),
                },
            )
        },
    ),
    ("GET", "/"): Operation("getPage", DAEMON, "The page", {200: Answer("The page.", {HTML: Content()})}),
    ("GET", "/openapi.json"): Operation(
        "getDocument", DAEMON, "This document", {200: Answer("OpenAPI 3.1.", {JSON: Content()})}
    ),
    ("GET", "/docs"): Operation(
        "getDocs",
        DAEMON,
        "This document, to read",
        {200: Answer("A page without a script.", {HTML: Content()}, ("Content-Security-Policy",))},
    ),
    ("GET", "/redoc"): Operation(
        "getRedoc",
        DAEMON,
        "Leads to /docs",
        {308: Answer("Go to /docs.", {}, ("Location",))},
    ),
}
