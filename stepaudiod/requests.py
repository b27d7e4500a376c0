"""The values that cross layers: requests, results, voices and engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stepaudiod.edits import Edit


class Recording(NamedTuple):
    """A client's recording in a file that is deleted when the response begins; transcript "" is unknown."""

    path: str
    transcript: str = ""


class SpeechRequest(NamedTuple):
    """Text to be spoken.

    Attributes:
        voice: the id of a voice of the engine; "" with a `reference`.
        speed: 1.0 is the voice's own pace; 0.25 to 4.0.
        seed: makes the audio reproducible; None draws one.
        reference: the voice to clone, instead of a voice with an id.
        language: if the text doesn't determine it, for instance `Cantonese`.
        edit: an emotion or a style.
        is_marked: whether the file's metadata says that it is synthetic.
        is_streamed: whether the client uses the sound as it comes; if not, it is made in larger chunks.
    """

    text: str
    voice: str
    speed: float = 1.0
    seed: int | None = None
    reference: Recording | None = None
    language: str | None = None
    edit: Edit | None = None
    is_marked: bool = True
    is_streamed: bool = True


class EditRequest(NamedTuple):
    """A recording to be changed. See `SpeechRequest`.

    Attributes:
        edit: None returns it as it is, for `engines.unchanged` only.
    """

    recording: Recording
    edit: Edit | None
    seed: int | None = None
    is_marked: bool = True
    is_streamed: bool = True


class TranscriptionRequest(NamedTuple):
    """A recording to be transcribed.

    Attributes:
        language: ISO 639-1 code; None detects it.
        prompt: words that may occur, as a hint.
        temperature: 0 takes the likeliest words; up to 1.
        has_words: whether each word's time is wanted.
    """

    recording: Recording
    language: str | None = None
    prompt: str = ""
    temperature: float = 0.0
    has_words: bool = False


Work = SpeechRequest | EditRequest | TranscriptionRequest
"""The kinds of work that an engine may do."""

KINDS: dict[str, type[Work]] = {
    "speech": SpeechRequest,
    "edit": EditRequest,
    "transcription": TranscriptionRequest,
}


def kind_of(work: Work) -> str:
    return next(kind for kind, form in KINDS.items() if isinstance(work, form))


class Word(NamedTuple):
    """A word and when it is said, in seconds from the recording's beginning."""

    text: str
    start_s: float
    end_s: float


class Segment(NamedTuple):
    """A time range of a transcript, in seconds from the recording's beginning, with the model's token ids."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    tokens: tuple[int, ...] = ()
    average_logprob: float = 0.0
    no_speech_probability: float = 0.0


class Facts(NamedTuple):
    """What an engine reports beside the result, such as the seed and the detected language.

    Facts that are known before the first sound are sent before it.
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
        language: BCP 47 tag of the language the voice was made for; `languages` are all that it can speak.
        gender: "female" or "male".
        name: the display name; "" if it is the id.
        transcript: of its recording, if it has one.
    """

    id: str
    description: str
    language: str
    gender: str
    languages: tuple[str, ...] = ()
    name: str = ""
    transcript: str = ""


class Capabilities(NamedTuple):
    """What an engine can do, with BCP 47 tags; the front refuses other requests before any work."""

    speak: bool = False
    clone: bool = False
    edits: tuple[str, ...] = ()
    transcribe: bool = False
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """The description of an engine, which the front uses without importing the engine.

    Attributes:
        name: the model id in the API.
        factory: `module:attribute`, imported in the worker only.
        packages: top-level modules that must be importable.
        install: how to install it, a sentence.
        voices: its voices, the first of them the default.
        openai_voices: OpenAI's voice names, each mapped to `{language: voice id}`.
        options: the factory's arguments beside the cache folder and the number of threads.
        files: large files that loading reads: the kernel fetches them while packages are imported.
        problem: why it can't be used although its packages are installed; "" if it can.
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
