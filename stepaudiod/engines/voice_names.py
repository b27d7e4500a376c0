"""Checks of a request against an engine's voices and languages; cheap, done by the front before any work."""

from __future__ import annotations

from stepaudiod.edits import with_language
from stepaudiod.errors import InvalidRequest, Unsupported
from stepaudiod.requests import EngineDescription, Voice
from stepaudiod.text.languages import language_code
from stepaudiod.text.scripts import has_chinese, has_letters_of, main_language
from stepaudiod.text.speakable import is_speakable

LANGUAGE_NAMES = {"en": "English", "zh": "Chinese", "ja": "Japanese"}
TOLD = {"ja": "Japanese", "ko": "Korean", "yue": "Cantonese"}
"""Languages that Step-Audio-EditX takes as a tag."""

ANY_VOICE = "alloy"
"""The voice of requests without one: OpenAI's first, which stands for another voice in each language."""

OLD_VOICES = {"fear_female": "alloy", "happy_en": "coral", "whisper_cn": "shimmer", "story_teller": "fable"}
"""The voices of the containers before this daemon, each with the most similar of OpenAI's.

Their recordings aren't shipped. A library voice of that name takes precedence.
"""


def resolve_voice(engine: EngineDescription, name: str, text: str) -> str:
    """The id of the voice that a request names.

    The name is a voice's id or name, one of OpenAI's voice names, an old container's, or "" for any; the
    text's main language decides which voice an OpenAI name stands for.

    Raises:
        InvalidRequest: there is no such voice.
    """
    wanted = name.strip().lower() or ANY_VOICE
    if voice := find_voice(engine, wanted):
        return voice.id
    if by_language := engine.openai_voices.get(OLD_VOICES.get(wanted, wanted)):
        return by_language.get(main_language(text)) or by_language["en"]
    own = ", ".join(voice.id for voice in engine.voices)
    theirs = ", ".join(engine.openai_voices)
    raise InvalidRequest(
        f"The engine {engine.name} has no voice {name[:80]!r}. Its voices: {own}."
        + (f" OpenAI's names work too: {theirs}." if theirs else ""),
        "voice",
    )


def find_voice(engine: EngineDescription, name: str) -> Voice | None:
    """The engine's own voice of that id, or of that name."""
    return next(
        (v for v in engine.voices if v.id == name),
        next((v for v in engine.voices if v.name.lower() == name.lower()), None),
    )


def told_language(engine: EngineDescription, language: str) -> str | None:
    """The language tag for an engine, from the language that a request names.

    Returns:
        One of `LANGUAGES`; None if the text alone decides.

    Raises:
        InvalidRequest: the engine doesn't speak that language.
    """
    code = language_code(language)
    if engine.capabilities.clone:
        return with_language("", TOLD.get(code, code)).strip("[]") or None
    if code and code not in engine.capabilities.languages:
        spoken = _listed(engine.capabilities.languages)
        raise InvalidRequest(
            f"The engine {engine.name} speaks {spoken}, not {language[:80]!r}. Leave 'language' out, or use "
            "a model that speaks it.",
            "language",
        )
    return None


def _listed(languages: tuple[str, ...]) -> str:
    return " and ".join(LANGUAGE_NAMES.get(language, language) for language in languages)


def require_speakable(engine: EngineDescription, text: str) -> None:
    """Refuse a text that the engine can't say.

    Raises:
        InvalidRequest: there is nothing to say in it.
        Unsupported: it is in a language that the engine doesn't speak.
    """
    if not is_speakable(text):
        raise InvalidRequest("The input has nothing to say: it needs at least one letter or digit.", "text")
    languages = engine.capabilities.languages
    spoken = _listed(languages)
    if "zh" not in languages and has_chinese(text):
        raise Unsupported(
            f"The engine {engine.name} speaks {spoken} only, and the input has Chinese in it. For Chinese, "
            'use the model "kokoro"; where /v1/models does not list it, install the Kokoro voices first: '
            "pip install 'stepaudiod[kokoro]', or apt install stepaudiod-voices.",
            "text",
        )
    main = main_language(text)
    if main not in languages or not has_letters_of(text, languages):
        named = None if main in languages else LANGUAGE_NAMES.get(main)
        language = named or "in another language"
        raise Unsupported(
            f"The engine {engine.name} speaks {spoken}, and the input is {language}. "
            "Send text in a language that it speaks, or use a model whose languages include this one.",
            "text",
        )
