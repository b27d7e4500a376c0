"""The schemas of the API's answers. Tests compare them with what is sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

ModelId = Annotated[str, Field(description="a model's id", examples=["hibari"])]


class Answer(BaseModel):
    """Has exactly these fields."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """An error in OpenAI's form."""

    message: str = Field(description="what is wrong, and what to do")
    type: Literal["invalid_request_error", "rate_limit_error", "authentication_error", "server_error"]
    param: str | None = Field(description="the field at fault")
    code: str | None = Field(description="for programs; null where the request was not valid HTTP")


class Error(Answer):
    """The form of every error."""

    error: ErrorDetail


class Health(Answer):
    """The daemon is alive."""

    status: Literal["ok"]


WorkerState = Annotated[
    Literal["none", "awake", "checkpointing", "dozing", "waiting", "restoring"],
    Field(description="whether there is a worker, and whether its memory is on the GPU"),
]


class Ready(Answer):
    """A request could be served."""

    status: Literal["ready"]
    reasons: list[str]
    engine: str
    why: str
    problems: list[str] = Field(description="folders that the daemon can't use, and how to mend each")
    worker: WorkerState


class NotReady(Answer):
    """No request could be served; `error` has the same reasons."""

    status: Literal["not ready"]
    reasons: list[str]
    error: ErrorDetail


class ModelCapabilities(Answer):
    """What a model can do."""

    speak: bool = Field(description="speaks, and has a voice")
    clone: bool
    transcribe: bool
    edits: list[str] = Field(description="its modes of /v1/audio/edits")


class Model(Answer):
    """A model in OpenAI's form, with more fields."""

    id: ModelId
    object: Literal["model"]
    created: int
    owned_by: Literal["stepaudiod"]
    default: str = Field("", description="only on the default model: why it is the default")
    stands_for: str = Field(
        "", description="only where the id is another name: the model that it stands for here"
    )
    title: str
    languages: list[str] = Field(description="BCP 47 tags")
    capabilities: ModelCapabilities


class ModelList(Answer):
    """The installed models, the best first, then OpenAI's names for the default ones."""

    object: Literal["list"]
    data: list[Model]


class ModelName(Answer):
    """A model in the form of Kokoro-FastAPI."""

    id: str


class SpeechModelList(ModelList):
    """Models that speak."""

    models: list[ModelName] = Field(description="their ids, in the form of Kokoro-FastAPI")


class Speaker(Answer):
    """A voice that can be named in a speech request."""

    id: str
    description: str
    locale: str
    gender: str
    languages: list[str]
    model: ModelId
    name: str
    prompt_text: str = Field(description="the transcript of its recording, if it has one")
    prompt_audio: str = Field(description="the path of its recording")
    openai_names: list[str] = Field(description="OpenAI's voice names that may stand for it")


class Speakers(RootModel[list[Speaker]]):
    """The voices of one model."""


class MadeVoice(Answer):
    """A voice that was made from a recording."""

    id: str = Field(examples=["aunt-mei"])
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
    """Voices that were made from recordings, and those that come with the engines."""

    object: Literal["list"]
    data: list[MadeVoice | BuiltInVoice]
    has_more: Literal[False]
    voices: list[VoiceName] = Field(description="those that `tts-1`, or `?model=`, can use now")


class DeletedVoice(Answer):
    """The voice is deleted."""

    id: str
    object: Literal["audio.voice.deleted"]
    deleted: Literal[True]


class Tags(Answer):
    """Every edit and its options."""

    data: dict[str, list[str]] = Field(description="each mode and its options")
    languages: list[str] = Field(description="the values of `language`")
    models: dict[str, list[str]] = Field(description="each mode and the models that can do it here")
    missing: dict[str, str] = Field(description="what no installed model can do, and how to get it")


class ModelStatus(BaseModel):
    """One model. A loaded model has more fields, which depend on the engine."""

    model_config = ConfigDict(extra="allow")

    loaded: bool
    auto_unload: bool
    idle_timeout: float | None = Field(description="seconds; null: the daemon does not exit")
    idle_time: float
    time_until_unload: float | None
    gpu_memory_allocated_gb: float
    gpu_memory_reserved_gb: float


class Requests(Answer):
    """Counted since the daemon started."""

    served: int
    failed: int
    cancelled: int
    refused: int


class Load(Answer):
    """An engine that is being loaded."""

    engine: ModelId
    stage: str
    fraction: float


class DaemonStatus(Answer):
    """The daemon itself."""

    version: str
    commit: str | None = Field(description="its hash, as in the header of `/healthz`")
    status: str = Field(description="the status line of systemctl")
    engine: str | None
    reason: str
    active: int
    queued: int
    worker_pid: int | None
    worker_state: WorkerState
    loading: str | None = Field(description="the progress of loading")
    load: Load | None = Field(description="the same as fields")
    requests: Requests


class Status(BaseModel):
    """`daemon`, and each model by its id."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ModelStatus]

    daemon: DaemonStatus


class Unloaded(Answer):
    """The model is not loaded now."""

    model: ModelId
    unloaded: bool = Field(description="whether it was loaded before")


class DurationUsage(Answer):
    """The usage of a transcription."""

    type: Literal["duration"]
    seconds: float


class SpeechTokens(Answer):
    """Tokens that the engine read and wrote."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class TranscriptTokens(SpeechTokens):
    """Tokens that the engine read and wrote."""

    type: Literal["tokens"]


class Transcription(Answer):
    """The transcript of a recording."""

    text: str
    usage: DurationUsage


class SpokenWord(Answer):
    """A word and when it is said, in seconds."""

    word: str
    start: float
    end: float


class SpokenSegment(Answer):
    """A segment of a transcript."""

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
    """A transcript with its timestamps."""

    task: Literal["transcribe"]
    language: str
    duration: float
    text: str
    words: list[SpokenWord] = Field([], description="only if timestamp_granularities[] has word")
    segments: list[SpokenSegment] = Field([], description="only if timestamp_granularities[] has segment")
    usage: DurationUsage


class SpeechAudioDelta(Answer):
    """An event: a piece of audio."""

    type: Literal["speech.audio.delta"]
    audio: str = Field(description="base64")


class SpeechAudioDone(Answer):
    """The last event of speech."""

    type: Literal["speech.audio.done"]
    usage: SpeechTokens


class TranscriptTextDelta(Answer):
    """An event: the text of a segment."""

    type: Literal["transcript.text.delta"]
    delta: str


class TranscriptTextDone(Answer):
    """The last event of a transcription."""

    type: Literal["transcript.text.done"]
    text: str
    usage: TranscriptTokens
