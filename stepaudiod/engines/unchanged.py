"""Returns a recording as it is, for an edit in the old containers' form that names nothing known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stepaudiod.audio.resample import Resampler
from stepaudiod.audio.types import Waveform
from stepaudiod.engines.base import Clip, Progress
from stepaudiod.errors import InvalidRequest
from stepaudiod.requests import EditRequest, Facts

BLOCK_S = 10.0


class UnchangedRecording:
    """Only the container, the codec and the sample rate of the result differ from the recording's."""

    sample_rate = 48_000

    def __init__(self, *, cache_dir: Path, threads: int) -> None:
        pass

    def load(self, progress: Progress) -> None:
        """There is nothing to load."""

    def edit(self, request: EditRequest, clip: Clip) -> Iterator[Waveform | Facts]:
        """The recording in blocks, at this sample rate.

        Raises:
            InvalidRequest: it is empty.
        """
        if not clip.waveform.size:
            raise InvalidRequest("The recording is empty. Send one with sound in it.", "recording")
        if clip.sample_rate == self.sample_rate:
            yield clip.waveform
            return
        resample = Resampler(clip.sample_rate, self.sample_rate)
        size = round(BLOCK_S * clip.sample_rate)
        for start in range(0, len(clip.waveform), size):
            yield resample(clip.waveform[start : start + size])
        yield resample(None)
