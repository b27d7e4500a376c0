"""The requests of the API, field by field: one definition serves validation and the document."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict

from stepaudiod.edits import MAX_INTENSITY, MAX_ITERATIONS, MIN_INTENSITY
from stepaudiod.engines.local_models import STEP_AUDIO
from stepaudiod.tags import LANGUAGES
from stepaudiod.text.languages import language_code

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
    str,
    Field(
        max_length=100,
        description=f"where the text alone doesn't tell: {', '.join(LANGUAGES)}; others need no name. Codes "
        "and names are understood; auto and the empty text leave it open",
    ),
]
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
MAX_INSTRUCTIONS = 4096
"""Characters, as OpenAI allows."""


def limited_by(setting: str) -> JsonDict:
    """For a text whose longest length is configured: `check_length` holds it, the document tells it."""
    return {"x-setting": setting}


MAX_TEXT = limited_by("limits.max_text")


def _say_nothing_of_others(schema: JsonDict) -> None:
    """Other properties are allowed where a schema doesn't mention them; some test generators need that."""
    schema.pop("additionalProperties", None)


class Form(BaseModel):
    """A request. A field that it doesn't have is ignored and named in the response; null is absent."""

    # validators are built at their first use: a health check that wakes the front needs none of them
    model_config = ConfigDict(extra="allow", defer_build=True, json_schema_extra=_say_nothing_of_others)

    @model_validator(mode="before")
    @classmethod
    def _leave_nulls_out(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}

    def unknown(self, above: str = "") -> Iterator[str]:
        """The names of fields that are not in the form, or not in a form inside of it."""
        yield from (f"{above}{name}" for name in self.model_extra or ())
        for name in type(self).model_fields:
            if isinstance(inner := getattr(self, name), Form):
                yield from inner.unknown(f"{above}{name}.")


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
    language: Language = ""
    lang_code: str = Field(
        "",
        max_length=100,
        description="the language as Kokoro-FastAPI's clients name it, by a letter or a code; where "
        "`language` doesn't say it",
    )
    stream: bool = Field(False, description="audio is always sent while it is made")
    metadata: Annotated[Any, WithJsonSchema(TEXTS)] = Field(
        None, description="an object of texts comes back in headers x-metadata-NAME"
    )
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="sse sends the audio in events, base64, and the usage at the end"
    )
    instructions: str | None = Field(
        None,
        max_length=MAX_INSTRUCTIONS,
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


class OldSpeechForm(SpeechForm):
    """`POST /v1/audio/speech` in the form of the old containers: everything but the text has a default."""

    model: str = Field(STEP_AUDIO, description="a model of /v1/models")
    input: str = Field(
        description="the text to speak; for paralinguistic, the new text with its tags",
        json_schema_extra=MAX_TEXT,
    )
    voice: str | VoiceId = Field(
        "", description="a voice of /v1/voices; without it, and without a recording, the first"
    )
    response_format: AudioFormat = "wav"
    metadata: dict[str, str] | None = Field(None, description="comes back in headers x-metadata-NAME")
    step_audio: StepAudioForm = Field(default_factory=StepAudioForm)


class UploadForm(Form):
    """`POST /v1/audio/speech/upload`; `prompt_audio_file` and `input_audio_file` hold recordings."""

    payload: str = Field(description="the JSON of a request to /v1/audio/speech")


def _is_chunking(value: str) -> str:
    """Accept what OpenAI does: `auto`, or an object that describes a voice activity detector."""
    if value == "auto":
        return value
    try:
        table = json.loads(value)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or table.get("type") != "server_vad":
        raise ValueError('Input should be "auto", or an object whose type is "server_vad"')
    return value


class TranscriptionForm(Form):
    """`POST /v1/audio/transcriptions`, in OpenAI's form; `file` holds the recording."""

    model: str = Field(description="a model of /v1/models; whisper-1 and its kin mean the best that is here")
    language: Annotated[str, AfterValidator(language_code)] = Field(
        "",
        max_length=100,
        description="of what is spoken: an ISO 639-1 code, a BCP 47 tag or a name; found out without it, and "
        "with auto",
    )
    languages: list[Annotated[str, AfterValidator(language_code)]] = Field(
        [], description="one is taken as `language`; several are ignored: which one it is is found out"
    )
    prompt: str = Field("", description="words that may come up")
    keywords: list[str] = Field([], description="more of them")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = Field(0.0, ge=0.0, le=1.0)
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        ["segment"], description="which times verbose_json has"
    )
    stream: bool | None = Field(None, description="events while it is written down; json and text only")
    include: list[Literal["logprobs"]] = Field([], description="ignored: no recogniser here tells these")
    chunking_strategy: Annotated[str, AfterValidator(_is_chunking)] = Field(
        "auto", description="auto is what happens; a detector's settings (`server_vad`) are ignored"
    )

    def spoken(self) -> str | None:
        """The code of the language that is spoken; None where it is to be found out."""
        return self.language or (self.languages[0] if len(self.languages) == 1 else "") or None

    def hint(self) -> str:
        """All the words that may come up."""
        return ", ".join(each for each in (self.prompt, *self.keywords) if each.strip())

    def unused(self) -> Iterator[str]:
        """The names of what is not followed."""
        if self.include:
            yield "include"
        if self.chunking_strategy != "auto":
            yield "chunking_strategy"
        if len(self.languages) > 1 or (self.languages and self.language not in ("", *self.languages)):
            yield "languages"
        yield from self.unknown()


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
