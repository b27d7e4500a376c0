"""The request bodies of the old containers' API, see `legacy.py` and `legacy_short.py`.

Values that are not known are no errors here: `legacy_edits.py` ignores them with a warning.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from stepaudiod.engines.local_models import STEP_AUDIO
from stepaudiod.web.schemas import (
    MAX_TEXT,
    AudioFormat,
    Form,
    Language,
    OptionalText,
    Seed,
    SpeechForm,
    VoiceId,
)


def _plain_mode(value: object) -> object:
    """The mode of a name on the old page: `emotion (情感)`, `clone_with_style`."""
    plain = value.partition("(")[0].strip().lower() if isinstance(value, str) else value
    return "clone" if plain in ("clone_with_emotion", "clone_with_style") else plain


def _text_of(value: object) -> object:
    """A number as a text: `0.8`."""
    return f"{value:g}" if isinstance(value, float | int) and not isinstance(value, bool) else value


OldMode = Annotated[
    Literal["clone", "emotion", "style", "paralinguistic", "speed", "denoise", "vad"],
    BeforeValidator(_plain_mode),
]
OldInfo = Annotated[
    str | None,
    BeforeValidator(_text_of),
    Field(
        description="which emotion, style or speed, or a factor as 0.8x; with clone, the emotion or style of "
        "the speech. A value that is not known is ignored, and X-StepAudio-Warning names it"
    ),
]
OldIntensity = Annotated[
    float | str,
    Field(description="of an emotion or a style: 0.1 to 3, or a word; any other is limited to that"),
]
OldIterations = Annotated[
    int, Field(description="how often the edit is applied: 1 to 4; any other is limited to that")
]
OldVariant = Literal["base", "awq", "bnb"]
Base64 = Annotated[str | None, Field(description="a recording in base64, or a data: URL")]
RecordingUrl = Annotated[
    str | None,
    Field(max_length=4096, description="a recording's URL; only with the setting allow_url_fetch"),
]


class StepAudioForm(Form):
    """`step_audio` of the old containers' form; of several recordings a file wins, then base64."""

    mode: OldMode = Field("clone", description="clone speaks `input`; the others change a recording")
    model_variant: OldVariant | None = Field(
        None, description="the quantization; by default the configured one"
    )
    prompt_text: OptionalText = Field(None, description="what the recording to clone says")
    prompt_audio_base64: Base64 = None
    prompt_audio_url: RecordingUrl = None
    input_audio_base64: Base64 = None
    input_audio_url: RecordingUrl = None
    audio_text: OptionalText = Field(None, description="what the recording to change says")
    edit_info: OldInfo = None
    intensity: OldIntensity = 1.0
    n_edit_iter: OldIterations = 1


class OldSpeechForm(SpeechForm):
    """`POST /v1/audio/speech` in the form of the old containers: everything but the text has a default."""

    model: str = Field(STEP_AUDIO, description="a model of /v1/models")
    input: str = Field(
        description="the text to speak; for paralinguistic, the new text with its tags",
        json_schema_extra=MAX_TEXT,
    )
    voice: str | VoiceId = Field(
        "", description="a voice of /v1/voices; by default the first, or the recording's"
    )
    response_format: AudioFormat = "wav"
    metadata: dict[str, str] | None = Field(None, description="returned in headers x-metadata-NAME")
    step_audio: StepAudioForm = Field(default_factory=StepAudioForm)


class UploadForm(Form):
    """`POST /v1/audio/speech/upload`."""

    files: ClassVar[dict[str, bool]] = {"prompt_audio_file": False, "input_audio_file": False}

    payload: str = Field(
        description="the JSON of a request to /v1/audio/speech",
        examples=['{"input": "Hello.", "step_audio": {"mode": "clone", "prompt_text": "Hi there."}}'],
    )


class ShortForm(Form):
    """What the two short requests of the old containers have in common."""

    model: str = Field(STEP_AUDIO, description="a model of /v1/models")
    model_variant: OldVariant | None = Field(
        None, description="the quantization; by default the configured one"
    )
    emotion: OldInfo = None
    style: OldInfo = None
    edit_info: OldInfo = None
    intensity: OldIntensity = 1.0
    n_edit_iter: OldIterations = 1
    response_format: AudioFormat = "wav"
    seed: Seed = None


SHORT_ALIASES = {
    **dict.fromkeys(("input", "target_text", "generated_text"), "text"),
    **dict.fromkeys(("audio_base64", "audio_file", "file"), "audio"),
    **{"sub_task": "edit_info", "iterations": "n_edit_iter", "format": "response_format"},
}


class CloneForm(ShortForm):
    """`POST /api/clone` of the old containers, as a form with a file."""

    files: ClassVar[dict[str, bool]] = {"audio": False}
    aliases: ClassVar[dict[str, str]] = {
        **SHORT_ALIASES,
        **dict.fromkeys(("reference_text", "ref_text", "audio_text", "transcript"), "prompt_text"),
        **dict.fromkeys(("prompt_audio", "prompt_audio_base64", "prompt_audio_file"), "audio"),
        **dict.fromkeys(("reference_audio", "ref_audio"), "audio"),
        "prompt_audio_url": "audio_url",
    }

    text: str = Field(
        description="the text to speak",
        examples=["Hello, this is a cloned voice!"],
        json_schema_extra=MAX_TEXT,
    )
    prompt_text: OptionalText = Field(
        None, description="what the recording says; without it, a recogniser transcribes it"
    )
    audio_url: RecordingUrl = None
    voice: str = Field("", description="without a recording, a voice of /v1/voices; by default the first")
    speed: float = Field(1.0, ge=0.25, le=4.0, description="1.0 is the voice's own pace")
    language: Language = ""


class CloneJson(CloneForm):
    """`POST /api/clone` as JSON."""

    files: ClassVar[dict[str, bool]] = {}

    audio: Base64 = None


class OldEditForm(ShortForm):
    """`POST /api/edit` of the old containers, as a form with a file."""

    files: ClassVar[dict[str, bool]] = {"audio": False}
    aliases: ClassVar[dict[str, str]] = {
        **SHORT_ALIASES,
        **dict.fromkeys(("prompt_text", "reference_text", "transcript"), "audio_text"),
        **dict.fromkeys(("input_audio", "input_audio_base64", "input_audio_file"), "audio"),
        **dict.fromkeys(("task", "edit_type"), "mode"),
        "input_audio_url": "audio_url",
    }

    mode: OldMode | None = Field(
        None,
        description="which edit; without it, the one whose field is given: emotion, style or speed",
        examples=["emotion"],
    )
    speed: OldInfo = None
    text: str = Field(
        "", description="for paralinguistic, the new text with its tags", json_schema_extra=MAX_TEXT
    )
    audio_text: OptionalText = Field(
        None, description="what the recording says; without it, a recogniser transcribes it"
    )
    audio_url: RecordingUrl = None


class OldEditJson(OldEditForm):
    """`POST /api/edit` as JSON."""

    files: ClassVar[dict[str, bool]] = {}

    audio: Base64 = None
