"""How long speech may be, and whether what came out is speech. Arithmetic on texts and waveforms.

Without a bound a model that has lost its way babbles on to the end of its context; without a lower bound a
clause that was dropped goes unnoticed. Both bounds come from the text, or from the recording that is edited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepaudiod.editx.codes import GROUP, SECONDS_PER_GROUP

Splitter = Callable[[str], Sequence[str]]
"""Cuts a text into pieces that are spoken one by one."""

MAX_PIECE_SECONDS = 20.0
"""Texts are cut so that each piece is estimated below this."""
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
_SENTENCE = re.compile(r"[^.!?。！？…\n]*(?:[.!?。！？…\n]+[\"'”’）)]*\s*|$)")
_CLAUSE = re.compile(r"[^,;:，；：、]*(?:[,;:，；：、]+\s*|$)")


@dataclass(frozen=True)
class Bounds:
    """How long an output may be, in seconds."""

    least: float
    most: float

    @property
    def max_tokens(self) -> int:
        """The most ids, whole groups and the end."""
        return math.ceil(self.most / SECONDS_PER_GROUP) * GROUP + 1


def spoken_seconds(text: str) -> float:
    """Estimate how long a text takes to say, within a factor of two or so.

    Args:
        text: in any of the model's languages; a tag counts as a short sound, a pinyin syllable as a
            character.
    """
    tags = _TAG.findall(text)
    text, syllables = _PINYIN.subn(" ", _TAG.sub(" ", text.lower()))
    seconds = TAG_SECONDS * len(tags) + 0.23 * syllables
    return seconds + sum(each * len(pattern.findall(text)) for pattern, each in _CHARACTER_SECONDS)


def bounds_for_text(text: str) -> Bounds:
    """Bound the speech of a text."""
    expected = spoken_seconds(text)
    return Bounds(FASTEST * max(0.0, expected - TAG_SECONDS), SLOWEST * expected + SLACK_SECONDS)


def bounds_for_edit(kind: str, info: str | None, seconds: float, tags: int = 0) -> Bounds:
    """Bound an edit's output by the length of what goes in.

    Args:
        kind: the edit.
        info: which.
        seconds: of the recording.
        tags: how many sounds are added.
    """
    least, most = {"denoise": (0.5, 1.3), "vad": (0.2, 1.2), "paralinguistic": (0.5, 1.6)}.get(
        kind, (0.35, 2.0)
    )
    if kind == "speed":
        least, most = (0.3, 1.3) if "faster" in (info or "") else (0.7, 3.0)
    return Bounds(least * seconds - 0.5, most * seconds + 1.0 + 2.0 * tags)


def split_text(text: str, limit: float = MAX_PIECE_SECONDS) -> list[str]:
    """Cut a long text at sentence ends, else at commas or spaces, into pieces of at most `limit` seconds.

    A plain stand-in for a splitter that knows languages; short texts come back whole.
    """
    if spoken_seconds(text) <= limit:
        return [text]
    for pattern in (_SENTENCE, _CLAUSE, re.compile(r"\S*\s*")):
        parts = [part for part in pattern.findall(text) if part]
        if len(parts) > 1:
            return _gather(parts, limit)
    middle = len(text) // 2
    return [*split_text(text[:middle], limit), *split_text(text[middle:], limit)]


def _gather(parts: list[str], limit: float) -> list[str]:
    pieces: list[str] = []
    for part in parts:
        if pieces and spoken_seconds(pieces[-1] + part) <= limit:
            pieces[-1] += part
        else:
            pieces += split_text(part, limit)
    return [piece.strip() for piece in pieces if piece.strip()]


def share_text(text: str, seconds: Sequence[float]) -> list[str]:
    """Deal a transcript out over stretches of a recording, in proportion to their length.

    Args:
        text: what the whole says.
        seconds: how long each stretch is.

    Returns:
        A text for each, cut between words or characters; near the truth when speech is even.
    """
    units = re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+\s*|\s+", text)
    total, whole = sum(seconds), sum(spoken_seconds(unit) for unit in units)
    if len(seconds) == 1 or total <= 0 or whole <= 0:
        return [text.strip(), *[""] * (len(seconds) - 1)]
    ends = torch.tensor(list(seconds)).cumsum(0) / total
    shares = [""] * len(seconds)
    said = 0.0
    for unit in units:
        middle = (said + spoken_seconds(unit) / 2) / whole
        said += spoken_seconds(unit)
        shares[min(int((ends <= middle).sum()), len(shares) - 1)] += unit
    return [share.strip() for share in shares]


def complaint(tokens: int, has_ended: bool, bounds: Bounds) -> str | None:
    """Say what is wrong with a sequence's length, if anything."""
    seconds = tokens // GROUP * SECONDS_PER_GROUP
    if not has_ended:
        return f"it ran on: no end after {seconds:.1f} s, where {bounds.most:.1f} s was the most expected"
    if seconds < bounds.least or tokens < GROUP:
        least = max(bounds.least, SECONDS_PER_GROUP)
        return f"it was cut short: {seconds:.1f} s, where {least:.1f} s was the least expected"
    return None


def is_silent(waveform: Tensor) -> bool:
    """Tell whether `(samples,)` holds no sound to speak of, or no numbers."""
    level = waveform.float().square().mean().sqrt()
    return not bool(level >= SILENT_RMS)
