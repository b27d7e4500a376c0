"""Model names that clients are configured with, beside those of /v1/models: OpenAI's and customary ones.

    tts-1, gpt-4o-mini-tts-2025-12-15        the default speech engine
    whisper-1, gpt-4o-transcribe             the default recogniser
    hexgrad/Kokoro-82M                       kokoro, or the default speech engine if it is not installed
    openai/whisper-large-v3                  whisper-large-v3, or the default recogniser

Case and the organisation before a slash do not matter. Names do not depend on what is installed.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

OPENAI_SPEECH = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
OPENAI_TRANSCRIPTION = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-transcribe")
"""OpenAI's own names, as /v1/models lists them; each also has dated snapshots."""

# Patterns are compiled at their first use: a health check that wakes the front needs none of them.
_SNAPSHOT = r"-(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4})$"
_SPEECH = r"tts-1(?:-hd)?|gpt-?4o-mini-tts"
_TRANSCRIPTION = r"whisper-1|gpt-transcribe|gpt-4o-(?:mini-)?transcribe(?:-diarize)?"
_KOKORO = r"kokoro(?:[-_].*)?"
_WHISPER = r"(?:faster-)?whisper(?P<size>[-_].*)?"
_DISTILLED = r"(?:faster-)?distil-(?:whisper|small|medium|large).*"


class Meaning(NamedTuple):
    """What a customary name stands for: an engine, or the default one for the need if it is not installed."""

    need: Literal["speak", "transcribe"]
    engine: str = ""


def without_organisation(name: str) -> str:
    """`openai/whisper-large-v3` as `whisper-large-v3`, in lower case."""
    return name.strip().lower().rpartition("/")[2]


def meaning(name: str) -> Meaning | None:
    """What a model's name stands for; None if it is not a customary name."""
    plain = without_organisation(name)
    undated = re.sub(_SNAPSHOT, "", plain)
    if re.fullmatch(_SPEECH, undated):
        return Meaning("speak")
    if re.fullmatch(_TRANSCRIPTION, undated):
        return Meaning("transcribe")
    if re.fullmatch(_KOKORO, plain):
        return Meaning("speak", "kokoro")
    if found := re.fullmatch(_WHISPER, plain):
        return Meaning("transcribe", f"whisper{found['size'] or ''}")
    return Meaning("transcribe") if re.fullmatch(_DISTILLED, plain) else None
