"""The requests of the API, field by field: one definition serves validation and the document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class VoiceId(BaseModel):
    """A voice named by an object, as OpenAI's clients may do."""

    model_config = ConfigDict(extra="forbid")

    id: str


class SpeechForm(BaseModel):
    """`POST /v1/audio/speech`, in OpenAI's form."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        description="a model of /v1/models; tts-1 and its kin mean the one that `engine` chose"
    )
    input: str = Field(description="the text to speak")
    voice: str | VoiceId = Field(description="a voice of /v1/voices, or one of OpenAI's names")
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0, description="1.0 is the voice's own pace")
    seed: int | None = Field(None, ge=0, lt=2**63, description="makes the audio reproducible")
    stream_format: Literal["audio"] = "audio"
    instructions: str | None = Field(
        None, description="how to speak; engines without styles leave it out and say so"
    )
