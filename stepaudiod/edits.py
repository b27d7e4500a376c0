"""The edits that the model supports, by the names it was trained on. Independent of audio.

A wrong name or combination is refused here, before any work, with the right ones listed.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from stepaudiod.errors import InvalidRequest
from stepaudiod.tags import LANGUAGES, TAGS, has_tag, listed, spelled

REMOVE = "remove"
EMOTIONS = (
    "happy", "angry", "sad", "humour", "confusion", "disgusted", "empathy", "embarrass", "fear", "surprised",
    "excited", "depressed", "coldness", "admiration",
)  # fmt: skip
STYLES = (
    "serious", "arrogant", "child", "older", "girl", "pure", "sister", "sweet", "ethereal", "whisper",
    "gentle", "recite", "generous", "act_coy", "warm", "shy", "comfort", "authority", "chat", "radio",
    "soulful", "story", "vivid", "program", "news", "advertising", "roar", "murmur", "shout",
    "deeply", "loudly", "exaggerated",
)  # fmt: skip
SPEEDS = ("faster", "slower", "more faster", "more slower")

OPTIONS: dict[str, tuple[str, ...]] = {
    "emotion": (*EMOTIONS, REMOVE),
    "style": (*STYLES, REMOVE),
    "speed": SPEEDS,
    "denoise": (),
    "vad": (),
    "paralinguistic": TAGS,
}
"""Every edit and its options."""
MAX_ITERATIONS = 4

INTENSITIES = {
    "slightly": 0.4,
    "somewhat": 0.7,
    "moderately": 1.0,
    "noticeably": 1.5,
    "much": 2.0,
    "dramatically": 3.0,
}
"""Words for an intensity, with the numbers that requests may give instead."""
INTENSITY_LIMITS = (0.5, 0.85, 1.15, 1.75, 2.5)
"""Where the next of these words begins."""
MIN_INTENSITY, MAX_INTENSITY = 0.1, 3.0

_DENOISE = (
    "Remove any noise from the given audio while preserving the voice content clearly. Ensure that the"
    " speech quality remains intact with minimal distortion, and eliminate all noise from the audio."
)
_VAD = (
    "Remove any silent portions from the given audio while preserving the voice content clearly. Ensure"
    " that the speech quality remains intact with minimal distortion, and eliminate all silence from the"
    " audio."
)


@dataclass(frozen=True)
class Edit:
    """One edit of a recording, checked: a wrong part is an `InvalidRequest` that lists the right ones.

    Args:
        kind: one of `OPTIONS`.
        info: which emotion, style or speed; None for the others.
        text: for `paralinguistic`, the new text, as a rule with tags.
        intensity: 0.1 to 3, for an emotion or a style; 1 adds nothing to the instruction.
        iterations: how often the edit is applied, each time to the last result.
    """

    kind: str
    info: str | None = None
    text: str | None = None
    intensity: float = 1.0
    iterations: int = 1

    def __post_init__(self) -> None:
        if self.kind not in OPTIONS:
            raise InvalidRequest(f"There is no edit {self.kind!r}. Edits: {', '.join(OPTIONS)}.", "kind")
        if not 1 <= self.iterations <= MAX_ITERATIONS:
            raise InvalidRequest(
                f"The number of iterations must be 1 to {MAX_ITERATIONS}; found {self.iterations}.",
                "iterations",
            )
        if not MIN_INTENSITY <= self.intensity <= MAX_INTENSITY:
            raise InvalidRequest(
                f"The intensity must be {MIN_INTENSITY} to {MAX_INTENSITY:g}; found {self.intensity:g}.",
                "intensity",
            )
        self._check_info()
        self._check_text()

    def _check_info(self) -> None:
        options = OPTIONS[self.kind] if self.kind != "paralinguistic" else ()
        if options and self.info not in options:
            found = "nothing" if not self.info else repr(self.info)
            raise InvalidRequest(
                f"The {self.kind} of the edit must be one of {', '.join(options)}; found {found}.", "info"
            )
        if not options and self.info:
            raise InvalidRequest(
                f"The edit {self.kind} has no options; found {self.info!r}. "
                "Only emotion, style and speed have options.",
                "info",
            )
        if self.intensity != 1.0 and (self.kind not in ("emotion", "style") or self.info == REMOVE):
            what = self.kind if self.info != REMOVE else f"{self.kind} remove"
            raise InvalidRequest(
                f"The edit {what} has no intensity; every emotion and style but {REMOVE} has one.",
                "intensity",
            )

    def _check_text(self) -> None:
        if self.kind != "paralinguistic":
            return
        if not self.text or not self.text.strip():
            raise InvalidRequest(
                f"The edit paralinguistic needs the new text, with tags where the sounds go: {listed()}.",
                "text",
            )

    @property
    def needs_transcript(self) -> bool:
        return self.kind not in ("denoise", "vad")

    def instruction(self, transcript: str) -> str:
        text = None if self.text is None else spelled(self.text)
        return instruction(self.kind, self.info, text, transcript, self.intensity)


def require_tag(text: str) -> None:
    """Require a tag in a new text for `paralinguistic`: else it is an `InvalidRequest` that lists them.

    A tag that isn't known is no error: it is passed on as text, see `tags.warning`.
    """
    if not has_tag(text):
        raise InvalidRequest(
            f"The new text has no tag. Put one or more where the sounds go: {listed()}.", "text"
        )


def instruction(
    kind: str, info: str | None, text: str | None, transcript: str, intensity: float = 1.0
) -> str:
    """The instruction for an edit as in training, ending with a line break; nothing is checked.

    Source: `_build_audio_edit_instruction` of the reference.
    """
    said = transcript.strip()
    if kind == "denoise":
        return _DENOISE + "\n"
    if kind == "vad":
        return _VAD + "\n"
    if kind == "paralinguistic":
        return (
            f"Add some non-verbal sounds to make the audio more natural, the new text is : {text}\n"
            f"  The text corresponding to the audio is: {said}\n"
        )
    if info == REMOVE:
        what = "any speaking styles" if kind == "style" else "any emotion"
        return f"Remove {what} in the following audio and the reference text is: {said}\n"
    word = intensity_word(intensity)
    more = f"{word} more" if word else "more"
    suffix = " style" if kind == "style" else ""
    return f"Make the following audio {more} {info}{suffix}. The text corresponding to the audio is: {said}\n"


def intensity_word(intensity: float) -> str:
    """The word for an intensity from 0.1 to 3 in an instruction; none around 1, where nothing is added."""
    word = list(INTENSITIES)[bisect_right(INTENSITY_LIMITS, intensity)]
    return "" if word == "moderately" else word


def with_language(text: str, language: str | None) -> str:
    """Put a language's tag in front of a text, unless it has it; an unknown language is an `InvalidRequest`.

    Mandarin, English, `auto` and None add nothing. Pinyin with tone digits (`guo4`) may replace characters.
    """
    if language is None or language.lower() in ("", "auto", "mandarin", "english", "chinese", "zh", "en"):
        return text
    name = next((name for name in LANGUAGES if name.lower() == language.lower()), None)
    if name is None:
        known = ", ".join(("auto", "Mandarin", "English", *LANGUAGES))
        raise InvalidRequest(f"There is no language {language!r}. Languages: {known}.", "language")
    return text if text.lstrip().startswith(f"[{name}]") else f"[{name}]{text}"
