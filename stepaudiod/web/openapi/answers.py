"""The answers of the API, field by field. Tests hold them to what is really sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

ModelId = Annotated[str, Field(description="a model's id", examples=["hibari"])]


class Answer(BaseModel):
    """An answer has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """What is wrong, in OpenAI's form."""

    message: str = Field(description="a sentence that says what to do")
    type: Literal["invalid_request_error", "rate_limit_error", "authentication_error", "server_error"]
    param: str | None = Field(description="the field at fault")
    code: str | None = Field(description="for programs; null where the bytes weren't HTTP")


class Error(Answer):
    """Every error has this form."""

    error: ErrorDetail


class Health(Answer):
    """The daemon is alive."""

    status: Literal["ok"]


class Ready(Answer):
    """A request could be served."""

    status: Literal["ready"]
    reasons: list[str]
    engine: str
    why: str


class NotReady(Answer):
    """No request could be served; the same is said as an error."""

    status: Literal["not ready"]
    reasons: list[str]
    error: ErrorDetail


class ReadinessProblem(RootModel[NotReady | Error]):
    """It can't serve; an `Error` alone where the configuration is broken."""


class ModelCapabilities(Answer):
    """What a model can do."""

    speak: bool = Field(description="it can, and has a voice")
    clone: bool
    transcribe: bool
    edits: list[str] = Field(description="the modes of /v1/audio/edits that it has")


class Model(Answer):
    """A model in OpenAI's form, and what more there is to know of it."""

    id: ModelId
    object: Literal["model"]
    created: int
    owned_by: Literal["stepaudiod"]
    default: str = Field("", description="only where it serves requests that name none: why")
    stands_for: str = Field("", description="only where the id is another name: the model that it means here")
    title: str
    languages: list[str] = Field(description="BCP 47 tags")
    capabilities: ModelCapabilities


class ModelList(Answer):
    """What is installed, the best first, then OpenAI's names for what serves."""

    object: Literal["list"]
    data: list[Model]


class ModelName(Answer):
    """A model in the form of Kokoro-FastAPI."""

    id: str


class SpeechModelList(ModelList):
    """Models that speak."""

    models: list[ModelName]


class Speaker(Answer):
    """A voice that can be named in a speech request."""

    id: str
    description: str
    locale: str
    gender: str
    languages: list[str]
    model: ModelId
    name: str
    prompt_text: str = Field(description="what its recording says, where it has one")
    prompt_audio: str = Field(description="where its recording is")
    openai_names: list[str] = Field(description="OpenAI's voice names that may mean it")


class Speakers(RootModel[list[Speaker]]):
    """The voices of one model."""


class MadeVoice(Answer):
    """A voice that somebody made from a recording."""

    id: str
    object: Literal["audio.voice"]
    name: str
    created_at: int
    type: Literal["audio_sample"]
    transcript: str
    consent: str
    description: str
    language: str
    gender: Literal["", "female", "male"]


class BuiltInVoice(Answer):
    """A voice that comes with an engine."""

    id: str
    object: Literal["audio.voice"]
    name: str
    created_at: int
    type: Literal["built_in"]
    model: ModelId
    description: str
    language: str


class VoiceName(Answer):
    """A voice in the form of Kokoro-FastAPI."""

    id: str
    name: str


class VoiceList(Answer):
    """Those that people made, and those that come with the engines."""

    object: Literal["list"]
    data: list[MadeVoice | BuiltInVoice]
    has_more: Literal[False]
    voices: list[VoiceName] = Field(description="those of them that `tts-1`, or `?model=`, means now")


class DeletedVoice(Answer):
    """It is gone."""

    id: str
    object: Literal["audio.voice.deleted"]
    deleted: Literal[True]


class Tags(Answer):
    """Every edit with what it can be told."""

    data: dict[str, list[str]] = Field(description="each mode and its options")
    languages: list[str] = Field(description="what `language` may name")
    models: dict[str, list[str]] = Field(description="each mode and the models that can do it here")
    missing: dict[str, str] = Field(description="what nothing here can do, and how to have it")


class ModelStatus(BaseModel):
    """One model. Where it is loaded it tells more of itself: these fields depend on the engine."""

    model_config = ConfigDict(extra="allow")

    loaded: bool
    auto_unload: bool
    idle_timeout: float | None = Field(description="seconds; null: it stays")
    idle_time: float
    time_until_unload: float | None
    gpu_memory_allocated_gb: float
    gpu_memory_reserved_gb: float


class Requests(Answer):
    """Since the daemon started."""

    served: int
    failed: int
    cancelled: int
    refused: int


class Load(Answer):
    """An engine on its way into memory."""

    engine: ModelId
    stage: str
    fraction: float


class DaemonStatus(Answer):
    """The daemon itself."""

    version: str
    status: str = Field(description="the line that systemctl shows")
    engine: str | None
    reason: str
    active: int
    queued: int
    worker_pid: int | None
    loading: str | None = Field(description="how far loading has come")
    load: Load | None = Field(description="the same in parts")
    requests: Requests


class Status(BaseModel):
    """`daemon`, and each model by its id."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ModelStatus]

    daemon: DaemonStatus


class Unloaded(Answer):
    """Whether there was anything to end."""

    model: ModelId
    unloaded: bool


class DurationUsage(Answer):
    """What a transcription took."""

    type: Literal["duration"]
    seconds: float


class SpeechTokens(Answer):
    """What the engine read and wrote."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class TranscriptTokens(SpeechTokens):
    """What the engine read and wrote."""

    type: Literal["tokens"]


class Transcription(Answer):
    """What a recording says."""

    text: str
    usage: DurationUsage


class SpokenWord(Answer):
    """A word and when it is said, in seconds."""

    word: str
    start: float
    end: float


class SpokenSegment(Answer):
    """A stretch of a transcript."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseTranscription(Answer):
    """Everything that is known of a recording's words."""

    task: Literal["transcribe"]
    language: str
    duration: float
    text: str
    words: list[SpokenWord] = Field([], description="where timestamp_granularities[] has word")
    segments: list[SpokenSegment] = Field([], description="where timestamp_granularities[] has segment")
    usage: DurationUsage


class AnyTranscription(RootModel[Transcription | VerboseTranscription]):
    """`json` or `verbose_json`."""


class SpeechAudioDelta(Answer):
    """An event: a piece of audio."""

    type: Literal["speech.audio.delta"]
    audio: str = Field(description="base64")


class SpeechAudioDone(Answer):
    """The last event of speech."""

    type: Literal["speech.audio.done"]
    usage: SpeechTokens


class TranscriptTextDelta(Answer):
    """An event: what a segment adds to the text."""

    type: Literal["transcript.text.delta"]
    delta: str


class TranscriptTextDone(Answer):
    """The last event of a transcription."""

    type: Literal["transcript.text.done"]
    text: str
    usage: TranscriptTokens
