"""Tags in a text: the non-verbal sounds of the model, written `[laugh]`.

Names are case-insensitive, with spaces, hyphens and underscores equivalent. The model gets the spelling that
its weights were trained on:

    "[LAUGHTER] well [clears_throat]"  ──►  "[laugh] well [clears throat]"
"""

from __future__ import annotations

import re
from urllib.parse import quote

LANGUAGES = ("Sichuanese", "Cantonese", "Japanese", "Korean")
"""Languages that are selected by a leading tag; Mandarin and English need none."""

TAGS = (
    "sigh", "inhale", "laugh", "chuckle", "exhale", "clears throat", "snort", "giggle", "cough", "breath",
    "uhm", "Confirmation-en", "Surprise-oh", "Surprise-ah", "Surprise-wa", "Surprise-yo",
    "Dissatisfaction-hnn", "Question-ei", "Question-ah", "Question-en", "Question-yi", "Question-oh",
    "Breathing", "Laughter",
)  # fmt: skip
"""Every accepted name, of the weights of January 2026 and of December 2025.

Source: the lists of tags in upstream's README at commits aacb90a and a652e87.
"""
_SPELLINGS = {"Breathing": "breath", "Laughter": "laugh"}
"""The spelling for the weights of January 2026, where it is not the name."""

_BRACKETED = re.compile(r"\[([^\W\d_][\w' -]{0,39})\]")
_BY_FOLDED_NAME = {re.sub(r"[\s_-]+", "-", name.lower()): name for name in (*TAGS, *LANGUAGES)}
MAX_WARNED = 5
"""Number of unknown tags that a warning lists."""


def spelled(text: str) -> str:
    """Replace tags by the spelling of the current weights; unknown tags are left unchanged."""

    def spell(match: re.Match[str]) -> str:
        name = _name(match.group(1))
        return f"[{_SPELLINGS.get(name, name)}]" if name else match.group()

    return _BRACKETED.sub(spell, text)


def count_tags(text: str) -> int:
    return sum(_name(name) in TAGS for name in _BRACKETED.findall(text))


def has_tag(text: str) -> bool:
    """Whether a text has a tag, known or unknown, other than a language."""
    return any(_name(name) not in LANGUAGES for name in _BRACKETED.findall(text))


def unknown_tags(text: str) -> list[str]:
    """Bracketed names that are neither sounds nor languages, without duplicates, in order."""
    return [name for name in dict.fromkeys(_BRACKETED.findall(text)) if _name(name) is None]


def warning(text: str) -> str | None:
    """A warning about unknown tags, for a response header; None if there are none."""
    unknown = unknown_tags(text)
    if not unknown:
        return None
    more = f" and {len(unknown) - MAX_WARNED} more" if len(unknown) > MAX_WARNED else ""
    names = ", ".join("[" + quote(name, safe=" '") + "]" for name in unknown[:MAX_WARNED])
    return f"unknown tag {names}{more}, passed on as text; GET /v1/tags lists the known ones"


def listed() -> str:
    return " ".join(f"[{tag}]" for tag in TAGS)


def _name(written: str) -> str | None:
    """The known tag or language of a written name."""
    return _BY_FOLDED_NAME.get(re.sub(r"[\s_-]+", "-", written.strip().lower()))
