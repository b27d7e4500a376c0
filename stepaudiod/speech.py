"""The values that cross layers: what is asked for, who speaks, what an engine can do. No behaviour."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """Text to be spoken.

    Attributes:
        text: what to say, any length that the configuration allows.
        voice: the id of a voice of the engine.
        speed: 1.0 is the voice's own pace; 0.25 to 4.0.
        seed: makes the audio reproducible; None draws one.
    """

    text: str
    voice: str
    speed: float = 1.0
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The form that crosses the process border."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Voice:
    """Somebody who can speak.

    Attributes:
        id: the name that requests use.
        description: one line for a person who chooses.
        language: BCP 47 tag of the language the voice was made for.
        gender: "female" or "male".
        languages: every language the voice can speak.
    """

    id: str
    description: str
    language: str
    gender: str
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; the front refuses the rest before any work begins.

    Attributes:
        speak: text to speech with the engine's own voices.
        clone: speech in the voice of a recording.
        edits: the editing modes it has.
        transcribe: speech to text.
        languages: BCP 47 tags of the languages it speaks.
    """

    speak: bool = False
    clone: bool = False
    edits: tuple[str, ...] = ()
    transcribe: bool = False
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What the front knows of an engine without importing it.

    Attributes:
        name: the model id in the API.
        title: a line for people.
        factory: `module:attribute`, imported in the worker only.
        packages: top-level modules that must be importable.
        install: the sentence that makes it possible where it is missing.
        voices: its voices, the first of them the default.
        openai_voices: OpenAI's voice names, each mapped to `{language: voice id}`.
        options: what the factory gets beside the folder for its cache and the number of threads.
        problem: why it can't be used although its packages are there; "" where it can.
    """

    name: str
    title: str
    factory: str
    packages: tuple[str, ...]
    install: str
    capabilities: Capabilities
    voices: tuple[Voice, ...]
    openai_voices: dict[str, dict[str, str]] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    problem: str = ""
