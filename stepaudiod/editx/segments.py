"""Time ranges of a recording: its silences, its best range as a reference, and the joining of its pieces.

The model reads at most 30 s at a time. Cuts are made in the middle of silences; pieces are faded over a few
milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.audio.types import Waveform
from stepaudiod.editx.tokenizers.features import CODE_RATE, voiced_bounds
from stepaudiod.editx.tokenizers.resample import resample

PIECE_SECONDS = 24.0
"""Long recordings are cut into pieces of at most about this length."""
REFERENCE_SECONDS = 15.0
"""Length of the range of a long reference that is used: more slows requests down and improves no voice."""
LEAD_SECONDS, TAIL_SECONDS = 0.05, 0.22
"""Silence that is kept around a voice, as the tokenisers keep it."""
FRAME_SECONDS = 0.02
QUIET_DB = 30.0
FADE_SECONDS = 0.01


@dataclass(frozen=True)
class TimeRange:
    """A part of a recording, in seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def cut_silence(waveform: Tensor, sample_rate: int) -> Tensor:
    """Cut the silence around a voice before any stage, so that mel, codes and embedding describe one sound.

    The reference implementation takes its mel from the whole recording and its codes from the trimmed one,
    and resamples one to the length of the other.

    Returns:
        `(samples,)` with 0.05 s before the voice and 0.22 s after it, padded with zeros.
    """
    start, end = voiced_bounds(resample(waveform, sample_rate, CODE_RATE))
    if end <= start:
        return waveform
    first = round((start / CODE_RATE - LEAD_SECONDS) * sample_rate)
    last = round((end / CODE_RATE + TAIL_SECONDS) * sample_rate)
    inside = waveform[max(0, first) : min(last, waveform.shape[-1])]
    return F.pad(inside, (max(0, -first), max(0, last - waveform.shape[-1])))


def levels(waveform: Tensor, sample_rate: int) -> Tensor:
    """Loudness every 20 ms: `(frames,)` dB relative to the loudest."""
    size = max(1, round(FRAME_SECONDS * sample_rate))
    frames = F.pad(waveform, (0, -waveform.shape[-1] % size)).reshape(-1, size)  # (frames, size)
    level = 20 * frames.square().mean(1).sqrt().clamp_min(1e-6).log10()
    return level - level.max()


def cut_points(waveform: Tensor, sample_rate: int) -> list[TimeRange]:
    """Cut a recording into pieces of at most 24 s, without gaps, each where it is quietest."""
    total = waveform.shape[-1] / sample_rate
    level = _smooth(levels(waveform, sample_rate), 9)
    pieces, start = [], 0.0
    while total - start > PIECE_SECONDS:
        # in the second half, so that pieces aren't needlessly short
        first, last = (int((start + t) / FRAME_SECONDS) for t in (PIECE_SECONDS / 2, PIECE_SECONDS))
        window = level[first:last]
        quiet = torch.nonzero(window <= window.min() + 3.0).flatten()
        end = (first + int(quiet[-1]) + 0.5) * FRAME_SECONDS
        pieces.append(TimeRange(start, end))
        start = end
    return [*pieces, TimeRange(start, total)]


def loudest_range(waveform: Tensor, sample_rate: int) -> TimeRange:
    """Choose the best range of a long reference: dense speech between two pauses."""
    total = waveform.shape[-1] / sample_rate
    level = _smooth(levels(waveform, sample_rate), 5)
    is_quiet = level < -QUIET_DB
    length = int(REFERENCE_SECONDS / FRAME_SECONDS)
    loud = (~is_quiet).float()
    # the share of speech in each window, less a penalty for an edge within a word
    speech = loud.cumsum(0)
    speech = F.pad(speech, (1, 0))
    inside = (speech[length:] - speech[:-length]) / length
    edges = 0.15 * (loud[: inside.shape[0]] + loud[length - 1 : length - 1 + inside.shape[0]])
    first = int((inside - edges).argmax())
    return TimeRange(first * FRAME_SECONDS, min(total, (first + length) * FRAME_SECONDS))


def _smooth(level: Tensor, frames: int) -> Tensor:
    padded = F.pad(level[None, None], (frames // 2, frames // 2), mode="replicate")
    return F.avg_pool1d(padded, frames, 1)[0, 0]


def take(waveform: Tensor, sample_rate: int, time_range: TimeRange) -> Tensor:
    return waveform[round(time_range.start * sample_rate) : round(time_range.end * sample_rate)]


def fade(part: Waveform, sample_rate: int, is_begin: bool, is_end: bool) -> Waveform:
    """Fade the first or last 10 ms, so that pieces can be joined without a click."""
    samples = min(round(FADE_SECONDS * sample_rate), part.size // 2)
    if samples == 0:
        return part
    rising = np.sin((np.arange(samples, dtype=np.float32) + 0.5) * (np.pi / 2 / samples)) ** 2
    faded = part.copy()
    if is_begin:
        faded[:samples] *= rising
    if is_end:
        faded[-samples:] *= rising[::-1]
    return faded


def surrounding_silence(waveform: Tensor, sample_rate: int) -> tuple[float, float]:
    """The silence, in seconds, that encoding cuts off before and after a piece's voice."""
    start, end = voiced_bounds(resample(waveform, sample_rate, CODE_RATE))
    total = waveform.shape[-1] / sample_rate
    return max(0.0, start / CODE_RATE - LEAD_SECONDS), max(0.0, total - end / CODE_RATE - TAIL_SECONDS)
