"""What a look at one thing found, in words for a person. Knows nothing of the things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "unknown", "problem"]
"""Fine; worth knowing; can't be seen from here; keeps something from working."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing.

    Attributes:
        subject: what was looked at: a unit, a folder, the GPU.
        level: how bad it is.
        text: what was found.
        advice: what to do; "" where nothing has to be done.
    """

    subject: str
    level: Level
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(subject, "ok", text)


def note(subject: str, text: str, advice: str = "") -> Finding:
    """It works, and there is something to know."""
    return Finding(subject, "note", text, advice)


def unknown(subject: str, text: str, advice: str = "") -> Finding:
    """It can't be seen from here."""
    return Finding(subject, "unknown", text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    """Something doesn't work."""
    return Finding(subject, "problem", text, advice)
