"""Limits on the length of speech, by which runaway and truncated output is detected. Imports no torch.

Without an upper limit a model may fail to stop before the end of its context; without a lower one a missing
clause is not detected. Both come from the text, or from the recording that is edited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from stepaudiod.editx.codes import GROUP, SECONDS_PER_GROUP

if TYPE_CHECKING:
    from torch import Tensor

MAX_SECONDS = 30.0
"""The longest recording that the model takes at once."""
MAX_PIECE_SECONDS = 20.0
"""The estimated length of the longest piece of text."""
SLOWEST, SLACK_SECONDS = 2.5, 3.0
FASTEST = 0.25
SILENT_RMS = 1e-3
_CHARACTER_SECONDS = (
    (re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"), 0.23),
    (re.compile(r"[\u3040-\u30ff]"), 0.14),
    (re.compile(r"[\uac00-\ud7af]"), 0.18),
    (re.compile(r"[0-9]"), 0.3),
    (re.compile(r"[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"), 0.065),
    (re.compile(r"[.!?;:,…。！？；：，、]"), 0.25),
)
_PINYIN = re.compile(r"\b[a-zü]{1,6}[1-5](?![0-9])")
_TAG = re.compile(r"\[[A-Za-z][A-Za-z -]*\]")
TAG_SECONDS = 0.8


@dataclass(frozen=True)
class Bounds:
    """The shortest and longest plausible output, in seconds."""

    least: float
    most: float

    @property
    def max_tokens(self) -> int:
        """The most ids: whole groups and the end."""
        return math.ceil(self.most / SECONDS_PER_GROUP) * GROUP + 1


def spoken_seconds(text: str) -> float:
    """Estimate the length of a spoken text in any of the model's languages, within a factor of about two.

    A tag counts as a short sound, a pinyin syllable as a character.
    """
    tags = _TAG.findall(text)
    text, syllables = _PINYIN.subn(" ", _TAG.sub(" ", text.lower()))
    seconds = TAG_SECONDS * len(tags) + 0.23 * syllables
    return seconds + sum(each * len(pattern.findall(text)) for pattern, each in _CHARACTER_SECONDS)


def bounds_for_text(text: str) -> Bounds:
    expected = spoken_seconds(text)
    return Bounds(FASTEST * max(0.0, expected - TAG_SECONDS), SLOWEST * expected + SLACK_SECONDS)


def bounds_for_edit(kind: str, info: str | None, seconds: float, tags: int = 0) -> Bounds:
    """Bound an edit's output by the length of its input; `tags` is the number of sounds that are added."""
    least, most = {"denoise": (0.5, 1.3), "vad": (0.2, 1.2), "paralinguistic": (0.5, 1.6)}.get(
        kind, (0.35, 2.0)
    )
    if kind == "speed":
        least, most = (0.3, 1.3) if "faster" in (info or "") else (0.7, 3.0)
    return Bounds(least * seconds - 0.5, most * seconds + 1.0 + 2.0 * tags)


def share_text(text: str, seconds: Sequence[float]) -> list[str]:
    """Divide a transcript among the parts of a recording, in proportion to their length.

    It is cut between words or characters; the result is nearly right when speech is even.
    """
    units = re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+\s*|\s+", text)
    total, whole = sum(seconds), sum(spoken_seconds(unit) for unit in units)
    if len(seconds) == 1 or total <= 0 or whole <= 0:
        return [text.strip(), *[""] * (len(seconds) - 1)]
    ends = [end / total for end in accumulate(seconds)]
    shares = [""] * len(seconds)
    said = 0.0
    for unit in units:
        middle = (said + spoken_seconds(unit) / 2) / whole
        said += spoken_seconds(unit)
        shares[min(sum(end <= middle for end in ends), len(shares) - 1)] += unit
    return [share.strip() for share in shares]


def complaint(tokens: int, has_ended: bool, bounds: Bounds) -> str | None:
    """Describe what is wrong with a sequence's length; None if nothing is."""
    seconds = tokens // GROUP * SECONDS_PER_GROUP
    if not has_ended:
        return f"it ran on: no end after {seconds:.1f} s, where {bounds.most:.1f} s was the most expected"
    if seconds < bounds.least or tokens < GROUP:
        least = max(bounds.least, SECONDS_PER_GROUP)
        return f"it was cut short: {seconds:.1f} s, where {least:.1f} s was the least expected"
    return None


def is_silent(waveform: Tensor) -> bool:
    """Whether `(samples,)` holds no audible sound, or NaN."""
    level = waveform.float().square().mean().sqrt()
    return not bool(level >= SILENT_RMS)
