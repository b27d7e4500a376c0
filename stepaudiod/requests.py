"""The values that cross layers: requests, results, voices and engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stepaudiod.edits import Edit


class Recording(NamedTuple):
    """A recording that a client sent, spooled to a file; the worker decodes it.

    Attributes:
        path: where it lies; gone when the response begins.
        transcript: what it says; "" where the client didn't tell.
    """

    path: str
    transcript: str = ""


class SpeechRequest(NamedTuple):
    """Text to be spoken.

    Attributes:
        text: what to say, any length that the configuration allows.
        voice: the id of a voice of the engine; "" with a `reference`.
        speed: 1.0 is the voice's own pace; 0.25 to 4.0.
        seed: makes the audio reproducible; None draws one.
        reference: whose voice to clone, instead of a voice with an id.
        language: named to the engine where the text doesn't tell, for instance `Cantonese`.
        edit: an emotion or a style for what is said.
        is_marked: whether the sound says in its metadata that it is synthetic.
    """

    text: str
    voice: str
    speed: float = 1.0
    seed: int | None = None
    reference: Recording | None = None
    language: str | None = None
    edit: Edit | None = None
    is_marked: bool = True


class EditRequest(NamedTuple):
    """A recording to be changed.

    Attributes:
        recording: the recording that is edited.
        edit: what to change.
        seed: makes the result reproducible; None draws one.
        is_marked: whether the sound says in its metadata that it is synthetic.
    """

    recording: Recording
    edit: Edit
    seed: int | None = None
    is_marked: bool = True


class TranscriptionRequest(NamedTuple):
    """A recording to be written down.

    Attributes:
        recording: what to listen to.
        language: ISO 639-1 code of what is spoken; None lets the engine find out.
        prompt: words that may come up, as a hint.
        temperature: 0 takes the likeliest words; up to 1.
        has_words: whether each word's time is wanted.
    """

    recording: Recording
    language: str | None = None
    prompt: str = ""
    temperature: float = 0.0
    has_words: bool = False


Work = SpeechRequest | EditRequest | TranscriptionRequest
"""What an engine can be asked for."""

KINDS: dict[str, type[Work]] = {
    "speech": SpeechRequest,
    "edit": EditRequest,
    "transcription": TranscriptionRequest,
}


def kind_of(work: Work) -> str:
    """`speech`, `edit` or `transcription`."""
    return next(kind for kind, form in KINDS.items() if isinstance(work, form))


class Word(NamedTuple):
    """A word and when it is said, in seconds from the recording's beginning."""

    text: str
    start_s: float
    end_s: float


class Segment(NamedTuple):
    """A stretch of a transcript.

    Attributes:
        text: what is said, without spaces around it.
        start_s: seconds from the recording's beginning.
        end_s: likewise.
        words: its words, where they were asked for.
        tokens: the model's ids.
        average_logprob: mean logarithm of the tokens' probabilities.
        no_speech_probability: 0..1.
    """

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    tokens: tuple[int, ...] = ()
    average_logprob: float = 0.0
    no_speech_probability: float = 0.0


class Facts(NamedTuple):
    """What an engine tells of its work beside the result: the seed it drew, the language it heard.

    What is known before the first sound is said before it.
    """

    values: dict[str, str | int | float]


class Audio(NamedTuple):
    """A piece of a response: encoded bytes, and the seconds of sound in them."""

    data: bytes
    duration_s: float


Result = Audio | Segment | Facts
"""What comes back for a request, piece by piece."""


class Voice(NamedTuple):
    """A voice.

    Attributes:
        id: the name that requests use.
        description: one line for choosing a voice.
        language: BCP 47 tag of the language the voice was made for.
        gender: "female" or "male".
        languages: every language the voice can speak.
        name: what people call it; "" where that is the id.
        transcript: what its recording says, where it has one.
    """

    id: str
    description: str
    language: str
    gender: str
    languages: tuple[str, ...] = ()
    name: str = ""
    transcript: str = ""


class Capabilities(NamedTuple):
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
        files: what loading reads, large files all: the kernel fetches them while packages are imported.
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
    options: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    problem: str = ""
