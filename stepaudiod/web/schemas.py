"""The requests of the API, field by field: one definition serves validation and the document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from stepaudiod.engines.pulled import STEP_AUDIO
from stepaudiod.model.edits import LANGUAGES, MAX_INTENSITY, MAX_ITERATIONS, MIN_INTENSITY

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]

IntensityWord = Literal["slightly", "somewhat", "moderately", "noticeably", "much", "dramatically"]
INTENSITIES: dict[str, float] = {
    "slightly": 0.4,
    "somewhat": 0.7,
    "moderately": 1.0,
    "noticeably": 1.5,
    "much": 2.0,
    "dramatically": 3.0,
}
"""Words for a strength; the numbers are those that the model's own words stand for."""


def _number_of(word: object) -> object:
    """A strength in words as the number it stands for."""
    return INTENSITIES.get(word.strip().lower(), word) if isinstance(word, str) else word


Strength = Annotated[float, Field(ge=MIN_INTENSITY, le=MAX_INTENSITY)]
Intensity = Annotated[
    Strength,
    BeforeValidator(_number_of, json_schema_input_type=Strength | IntensityWord),
    Field(description="of an emotion or a style: a number or a word"),
]
Iterations = Annotated[
    int,
    Field(ge=1, le=MAX_ITERATIONS, description="how often the edit is applied, each time to the last result"),
]
Seed = Annotated[
    int | None, Field(ge=0, lt=2**48, description="makes the audio reproducible; the response names it")
]
Language = Annotated[
    str | None,
    Field(description=f"where the text alone doesn't tell: {', '.join(LANGUAGES)}; others need no name"),
]


def limited_by(setting: str) -> JsonDict:
    """For a text whose longest length is configured: `check_length` holds it, the document tells it."""
    return {"x-setting": setting}


MAX_TEXT = limited_by("limits.max_text")


class Form(BaseModel):
    """A request: a field nobody knows is a mistake, not a wish."""

    # validators are built at their first use: a health check that wakes the front needs none of them
    model_config = ConfigDict(extra="forbid", defer_build=True)


class VoiceId(Form):
    """A voice named by an object, as OpenAI's clients may do."""

    id: str


class SpeechForm(Form):
    """`POST /v1/audio/speech`, in OpenAI's form."""

    model: str = Field(
        description="a model of /v1/models; tts-1 and its kin mean the one that `engine` chose"
    )
    input: str = Field(description="the text to speak", json_schema_extra=MAX_TEXT)
    voice: str | VoiceId = Field(description="a voice of /v1/voices, or one of OpenAI's names")
    response_format: AudioFormat = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0, description="1.0 is the voice's own pace")
    seed: Seed = None
    language: Language = None
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="sse sends the audio in events, base64, and the usage at the end"
    )
    instructions: str | None = Field(
        None,
        description="how to speak; an emotion, a style or a dialect that is named in it is followed where "
        "the engine can, and a header says which",
    )


OldMode = Literal["clone", "emotion", "style", "paralinguistic", "speed", "denoise", "vad"]
OldVariant = Literal["base", "awq", "bnb"]
Base64 = Annotated[str | None, Field(description="a recording in base64, or a data: URL")]
RecordingUrl = Annotated[
    str | None,
    Field(max_length=4096, description="where a recording is; only with the setting allow_url_fetch"),
]


class StepAudioForm(Form):
    """`step_audio` of the old containers' form; of several recordings a file wins, then base64."""

    mode: OldMode = Field("clone", description="clone speaks `input`; the others change a recording")
    model_variant: OldVariant | None = Field(
        None, description="how many bits; without it those that are configured"
    )
    prompt_text: str | None = Field(
        None, description="what the recording to clone says", json_schema_extra=MAX_TEXT
    )
    prompt_audio_base64: Base64 = None
    prompt_audio_url: RecordingUrl = None
    input_audio_base64: Base64 = None
    input_audio_url: RecordingUrl = None
    audio_text: str | None = Field(
        None, description="what the recording to change says", json_schema_extra=MAX_TEXT
    )
    edit_info: str | None = Field(
        None, description="which emotion, style or speed; with clone, an emotion or a style for what is said"
    )
    intensity: Intensity = 1.0
    n_edit_iter: Iterations = 1


def _or_any(voice: object) -> object:
    """Nobody in particular is the empty name."""
    return "" if voice is None else voice


def _or_default(step_audio: object) -> object:
    """Nothing of it is all of its defaults."""
    return {} if step_audio is None else step_audio


class OldSpeechForm(SpeechForm):
    """`POST /v1/audio/speech` in the form of the old containers: everything but the text has a default."""

    model: str = Field(STEP_AUDIO, description="a model of /v1/models")
    input: str = Field(
        description="the text to speak; for paralinguistic, the new text with its tags",
        json_schema_extra=MAX_TEXT,
    )
    voice: Annotated[str | VoiceId, BeforeValidator(_or_any)] = Field(
        "", description="a voice of /v1/voices; without it, and without a recording, the first"
    )
    response_format: AudioFormat = "wav"
    stream: bool = Field(False, description="audio is always sent while it is made")
    metadata: dict[str, str] | None = Field(None, description="comes back in headers x-metadata-NAME")
    step_audio: Annotated[StepAudioForm, BeforeValidator(_or_default)] = StepAudioForm()


class UploadForm(Form):
    """`POST /v1/audio/speech/upload`; `prompt_audio_file` and `input_audio_file` hold recordings."""

    payload: str = Field(description="the JSON of a request to /v1/audio/speech")


class TranscriptionForm(Form):
    """`POST /v1/audio/transcriptions`, in OpenAI's form; `file` holds the recording."""

    model: str = Field(description="a model of /v1/models; whisper-1 and its kin mean the best that is here")
    language: str | None = Field(None, description="ISO 639-1 code of what is spoken; found out without it")
    prompt: str = Field("", description="words that may come up")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = Field(0.0, ge=0.0, le=1.0)
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        ["segment"], description="which times verbose_json has"
    )
    stream: bool | None = Field(None, description="events while it is written down; json and text only")


class VoiceForm(Form):
    """`POST /v1/audio/voices`; `audio_sample` holds the recording."""

    name: str = Field(min_length=1, max_length=200, description="what people call it; the id is made from it")
    consent: str = Field(
        min_length=1, max_length=2000, description="who agreed that this voice is used, in words"
    )
    transcript: str = Field(
        "", max_length=10_000, description="what the recording says; written down by a recogniser without it"
    )
    description: str = Field("", max_length=500)
    language: str = Field("", max_length=35, description="BCP 47 tag")
    gender: Literal["", "female", "male"] = ""
    type: Literal["audio_sample"] = "audio_sample"


class EditForm(Form):
    """`POST /v1/audio/edits`; `file` holds the recording."""

    mode: str = Field(description="a mode of /v1/tags: emotion, style, speed, denoise, vad, paralinguistic")
    model: str | None = Field(None, description="a model of /v1/models; without it the best that can")
    edit_info: str | None = Field(None, description="which emotion, style or speed")
    text: str | None = Field(
        None, description="for paralinguistic: the new text with its tags", json_schema_extra=MAX_TEXT
    )
    transcript: str = Field(
        "",
        description="what the recording says; written down by a recogniser without it",
        json_schema_extra=MAX_TEXT,
    )
    intensity: Intensity = 1.0
    iterations: Iterations = 1
    response_format: AudioFormat = "wav"
    seed: Seed = None
