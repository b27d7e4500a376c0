"""The request bodies of the API: the schemas that validate them, and that the document shows."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

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

from stepaudiod.edits import INTENSITIES, MAX_INTENSITY, MAX_ITERATIONS, MIN_INTENSITY
from stepaudiod.tags import LANGUAGES
from stepaudiod.text.languages import language_code

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]

IntensityWord = Annotated[str, WithJsonSchema({"type": "string", "enum": [*INTENSITIES]})]


def _number_of(word: object) -> object:
    if not isinstance(word, str):
        return word
    try:
        return INTENSITIES.get(word.strip().lower()) or float(word)
    except ValueError:
        raise ValueError(f"Input should be a number, or one of {', '.join(INTENSITIES)}") from None


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
    int | None,
    Field(
        ge=0, lt=2**48, description="makes the audio of Step-Audio-EditX reproducible; the response names it"
    ),
]
Language = Annotated[
    str,
    Field(
        max_length=100,
        description=f"needed where the text does not show it: {', '.join(LANGUAGES)}. A code or a name; auto "
        "and the empty text leave it open",
    ),
]
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
MAX_INSTRUCTIONS = 4096
"""Characters, as OpenAI allows."""


MAX_TEXT: JsonDict = {"x-setting": "limits.max_text"}
"""Names the setting that limits a text's length, for the document; `check_length` enforces it."""
OptionalText = Annotated[str | None, Field(json_schema_extra=MAX_TEXT)]


def _say_nothing_of_others(schema: JsonDict) -> None:
    """Remove `additionalProperties: true`, which is the default and confuses some test generators."""
    schema.pop("additionalProperties", None)


class Form(BaseModel):
    """A request body. An unknown field is ignored and named in the response; null is the same as absent.

    Attributes:
        files: the fields of a multipart form that hold files, and whether each is required. A form without
            any is JSON.
        aliases: other names of fields and files.
    """

    # Validators are built at their first use: a health check that wakes the front needs none of them.
    model_config = ConfigDict(extra="allow", defer_build=True, json_schema_extra=_say_nothing_of_others)

    files: ClassVar[dict[str, bool]] = {}
    aliases: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _leave_nulls_out(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        table = {name: value for name, value in given.items() if value is not None}
        for alias, name in cls.aliases.items():
            if alias in table and name not in table:
                table[name] = table.pop(alias)
        return table

    def unknown(self, above: str = "") -> Iterator[str]:
        """The names of fields that this form, or a form inside it, does not have."""
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
        description="a model of /v1/models; tts-1 and similar names mean the default engine",
        examples=["tts-1"],
    )
    input: str = Field(
        description="the text to speak",
        examples=["Hello. I was asleep until you called."],
        json_schema_extra=MAX_TEXT,
    )
    voice: str | VoiceId = Field(
        description="a voice of /v1/voices, or one of OpenAI's names", examples=["alloy"]
    )
    response_format: AudioFormat = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0, description="1.0 is the voice's own pace")
    seed: Seed = None
    language: Language = ""
    lang_code: str = Field(
        "",
        max_length=100,
        description="the language as Kokoro-FastAPI's clients name it, by a letter or a code; used without "
        "`language`",
    )
    stream: bool = Field(False, description="audio is always sent while it is made")
    metadata: Annotated[Any, WithJsonSchema(TEXTS)] = Field(
        None, description="an object of texts is returned in headers x-metadata-NAME"
    )
    stream_format: Literal["audio", "sse"] = Field(
        "audio", description="sse sends the audio in events, base64, and the usage at the end"
    )
    instructions: str | None = Field(
        None,
        max_length=MAX_INSTRUCTIONS,
        description="how to speak; an emotion, a style or a dialect in it is followed where the engine can, "
        "and a header names it",
    )


def _is_chunking(value: str) -> str:
    """Accept what OpenAI accepts: `auto`, or an object that describes a voice activity detector."""
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
    """`POST /v1/audio/transcriptions`, in OpenAI's form."""

    files = {"file": True}

    model: str = Field(
        description="a model of /v1/models; whisper-1 and similar names mean the default recogniser",
        examples=["whisper-1"],
    )
    language: Annotated[str, AfterValidator(language_code)] = Field(
        "",
        max_length=100,
        description="the spoken language: an ISO 639-1 code, a BCP 47 tag or a name; detected without it "
        "and with auto",
    )
    languages: list[Annotated[str, AfterValidator(language_code)]] = Field(
        [], description="one is used as `language`; several are ignored, and the language is detected"
    )
    prompt: str = Field("", description="words that the recording may contain")
    keywords: list[str] = Field([], description="more of them")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = Field(0.0, ge=0.0, le=1.0)
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        ["segment"], description="which timestamps verbose_json has"
    )
    stream: bool | None = Field(None, description="sends events; json and text only")
    include: list[Literal["logprobs"]] = Field([], description="ignored: no recogniser here reports these")
    chunking_strategy: Annotated[str, AfterValidator(_is_chunking)] = Field(
        "auto", description="only auto is followed; settings of a detector (`server_vad`) are ignored"
    )

    def spoken(self) -> str | None:
        """The code of the spoken language; None to detect it."""
        return self.language or (self.languages[0] if len(self.languages) == 1 else "") or None

    def hint(self) -> str:
        return ", ".join(each for each in (self.prompt, *self.keywords) if each.strip())

    def unused(self) -> Iterator[str]:
        """The names of fields that are not followed."""
        if self.include:
            yield "include[]"
        if self.chunking_strategy != "auto":
            yield "chunking_strategy"
        if len(self.languages) > 1 or (self.languages and self.language not in ("", *self.languages)):
            yield "languages[]"
        yield from self.unknown()


class VoiceForm(Form):
    """`POST /v1/audio/voices`."""

    files = {"audio_sample": True}

    name: str = Field(
        min_length=1,
        max_length=200,
        description="the display name; the id is made from it",
        examples=["Aunt Mei"],
    )
    consent: str = Field(
        min_length=1,
        max_length=2000,
        description="the speaker's consent to the use of this voice, in words",
        examples=["Mei agreed on 2 May"],
    )
    transcript: str = Field(
        "",
        max_length=10_000,
        description="what the recording says; without it, a recogniser transcribes it",
        examples=["The birch canoe slid on the smooth planks."],
    )
    description: str = Field("", max_length=500)
    language: str = Field("", max_length=35, description="BCP 47 tag")
    gender: Literal["", "female", "male"] = ""
    type: Literal["audio_sample"] = "audio_sample"


class EditForm(Form):
    """`POST /v1/audio/edits`."""

    files = {"file": True}

    mode: str = Field(
        description="a mode of /v1/tags: emotion, style, speed, denoise, vad, paralinguistic",
        examples=["emotion"],
    )
    model: str | None = Field(None, description="a model of /v1/models; without it, the best for the mode")
    edit_info: str | None = Field(None, description="which emotion, style or speed", examples=["happy"])
    text: OptionalText = Field(None, description="for paralinguistic: the new text with its tags")
    transcript: str = Field(
        "",
        description="what the recording says; without it, a recogniser transcribes it",
        examples=["The birch canoe slid on the smooth planks."],
        json_schema_extra=MAX_TEXT,
    )
    intensity: Intensity = 1.0
    iterations: Iterations = 1
    response_format: AudioFormat = "wav"
    seed: Seed = None
