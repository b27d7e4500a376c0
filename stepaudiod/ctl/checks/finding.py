"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "unknown", "problem"]
"""Correct; worth knowing; can't be checked from here; prevents something from working."""


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    level: Level
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    return Finding(subject, "ok", text)


def note(subject: str, text: str, advice: str = "") -> Finding:
    return Finding(subject, "note", text, advice)


def unknown(subject: str, text: str, advice: str = "") -> Finding:
    return Finding(subject, "unknown", text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    return Finding(subject, "problem", text, advice)
