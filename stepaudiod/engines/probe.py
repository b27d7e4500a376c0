"""Checks a recording for a voice: its length and its level."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stepaudiod.engines.base import Clip, Progress
from stepaudiod.errors import InvalidRequest
from stepaudiod.requests import Facts, Segment, TranscriptionRequest

SILENT = 1e-3
SHORTEST_S = 0.4


class RecordingProbe:
    """Reports a recording's length, and refuses one that can't contain a voice."""

    sample_rate = 24_000

    def __init__(self, *, cache_dir: Path, threads: int) -> None:
        pass

    def load(self, progress: Progress) -> None:
        """There is nothing to load."""

    def transcribe(self, request: TranscriptionRequest, clip: Clip) -> Iterator[Segment | Facts]:
        """Return `duration_s` and `recording_rate`, and no text.

        Raises:
            InvalidRequest: it is silent, or too short.
        """
        param = "recording"
        if clip.duration_s < SHORTEST_S:
            raise InvalidRequest(
                f"The recording is {clip.duration_s:.2f} s long; at least {SHORTEST_S} s are needed.", param
            )
        if float(np.abs(clip.waveform).max()) < SILENT:
            raise InvalidRequest("The recording is silent. Send one of a voice.", param)
        yield Facts({"duration_s": round(clip.duration_s, 3), "recording_rate": clip.sample_rate})
