"""Tags in a text: the non-verbal sounds that the model makes, written `[laugh]`. Knows no audio.

Names are matched in any case, with spaces, hyphens and underscores alike. What the model reads is the
spelling that its weights were trained on:

    "[LAUGHTER] well [clears_throat]"  ──►  "[laugh] well [clears throat]"
"""

from __future__ import annotations

import re
from enum import Enum
from urllib.parse import quote

LANGUAGES = ("Sichuanese", "Cantonese", "Japanese", "Korean")
"""Languages that the text names in a leading tag; Mandarin and English need none."""


class Weights(Enum):
    """Published weights that differ in the tags they know."""

    DECEMBER_2025 = "2025-12"
    JANUARY_2026 = "2026-01"


SPELLINGS: dict[str, dict[Weights, str]] = {
    name: dict(zip((Weights.JANUARY_2026, Weights.DECEMBER_2025), spellings, strict=False))
    for name, *spellings in (
        ("sigh", "sigh", "Sigh"),
        ("inhale", "inhale"),
        ("laugh", "laugh", "Laughter"),
        ("chuckle", "chuckle"),
        ("exhale", "exhale"),
        ("clears throat", "clears throat"),
        ("snort", "snort"),
        ("giggle", "giggle"),
        ("cough", "cough"),
        ("breath", "breath", "Breathing"),
        ("uhm", "uhm", "Uhm"),
        ("Confirmation-en", "Confirmation-en", "Confirmation-en"),
        ("Surprise-oh", "Surprise-oh", "Surprise-oh"),
        ("Surprise-ah", "Surprise-ah", "Surprise-ah"),
        ("Surprise-wa", "Surprise-wa", "Surprise-wa"),
        ("Surprise-yo", "Surprise-yo"),
        ("Dissatisfaction-hnn", "Dissatisfaction-hnn", "Dissatisfaction-hnn"),
        ("Question-ei", "Question-ei", "Question-ei"),
        ("Question-ah", "Question-ah"),
        ("Question-en", "Question-en"),
        ("Question-yi", "Question-yi"),
        ("Question-oh", "Question-oh"),
        ("Breathing", "breath", "Breathing"),
        ("Laughter", "laugh", "Laughter"),
    )
}
"""Every name that is taken, and how it is spelled for the weights that know the sound.

Source: the lists of tags in upstream's README at commits aacb90a and a652e87.
"""
TAGS = tuple(SPELLINGS)

_BRACKETED = re.compile(r"\[([^\W\d_][\w' -]{0,39})\]")
_BY_FOLDED_NAME = {re.sub(r"[\s_-]+", "-", name.lower()): name for name in (*TAGS, *LANGUAGES)}
MAX_WARNED = 5
"""How many unknown tags a warning names."""


def spelled(text: str, weights: Weights = Weights.JANUARY_2026) -> str:
    """The text with its tags as the weights know them; what isn't a tag, or no sound of theirs, stays.

    Args:
        text: with tags in it.
        weights: those of the model; the default are those that are published today.
    """

    def spell(match: re.Match[str]) -> str:
        name = _name(match.group(1))
        spelling = name if name in LANGUAGES else SPELLINGS.get(name or "", {}).get(weights, name)
        return f"[{spelling}]" if spelling else match.group()

    return _BRACKETED.sub(spell, text)


def count_tags(text: str) -> int:
    """How many sounds a text asks for."""
    return sum(_name(name) in SPELLINGS for name in _BRACKETED.findall(text))


def has_tag(text: str) -> bool:
    """Whether a text has a tag that isn't a language, known or not."""
    return any(_name(name) not in LANGUAGES for name in _BRACKETED.findall(text))


def unknown_tags(text: str) -> list[str]:
    """Names in brackets that are neither sounds nor languages, each once, in order."""
    return [name for name in dict.fromkeys(_BRACKETED.findall(text)) if _name(name) is None]


def warning(text: str) -> str | None:
    """What a response says of unknown tags, fit for a header; None where there are none."""
    unknown = unknown_tags(text)
    if not unknown:
        return None
    more = f" and {len(unknown) - MAX_WARNED} more" if len(unknown) > MAX_WARNED else ""
    names = ", ".join("[" + quote(name, safe=" '") + "]" for name in unknown[:MAX_WARNED])
    return f"unknown tag {names}{more}, passed on as text; GET /v1/tags lists the known ones"


def listed() -> str:
    """Every tag, for a message."""
    return " ".join(f"[{tag}]" for tag in TAGS)


def _name(written: str) -> str | None:
    """The tag or the language that is meant."""
    return _BY_FOLDED_NAME.get(re.sub(r"[\s_-]+", "-", written.strip().lower()))
