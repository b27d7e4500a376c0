"""Joins pieces of speech into one stream, with pauses and without clicks. Independent of the engines.

[silence│speech│silence] [silence│speech│silence]      input: two pieces
[fade in│speech│fade out][pause][fade in│speech│…      output
"""

from __future__ import annotations

import numpy as np

from stepaudiod.audio.types import Waveform
from stepaudiod.errors import SynthesisFailed

QUIET = 0.003
"""Amplitude below which the ends count as silence."""

LEAD_S = 0.03
TAIL_S = 0.08
FADE_S = 0.008
FRAME_S = 0.005


class Joiner:
    """Trims and fades each piece, and inserts pauses, which `speed` scales."""

    def __init__(self, sample_rate: int, speed: float = 1.0) -> None:
        self._sample_rate = sample_rate
        self._speed = speed
        self._pause_s = 0.0

    def join(self, waveform: Waveform, pause_s: float) -> Waveform:
        """The next piece `(samples,)`, after the pause of the one before; `pause_s` is at speed 1.0.

        Raises:
            SynthesisFailed: the samples are not numbers.
        """
        if not np.isfinite(waveform).all():
            raise SynthesisFailed("The voice gave samples that are not numbers; try again, or another voice.")
        speech = self._trim(waveform)
        pause = np.zeros(round(self._pause_s / self._speed * self._sample_rate), np.float32)
        self._pause_s = pause_s
        return np.concatenate([pause, self._fade(speech)])

    def _trim(self, waveform: Waveform) -> Waveform:
        """Shorten the silence at both ends."""
        frame = round(FRAME_S * self._sample_rate)
        whole = len(waveform) // frame
        if whole == 0:
            return waveform
        peaks = np.abs(waveform[: whole * frame]).reshape(whole, frame).max(axis=1)  # (whole,)
        loud = np.flatnonzero(peaks > QUIET)
        if loud.size == 0:
            return waveform[:0]
        margin = self._sample_rate / max(1.0, self._speed)
        start = max(0, loud[0] * frame - round(LEAD_S * margin))
        end = min(len(waveform), (loud[-1] + 1) * frame + round(TAIL_S * margin))
        return waveform[start:end]

    def _fade(self, speech: Waveform) -> Waveform:
        count = min(round(FADE_S * self._sample_rate), len(speech) // 2)
        if count == 0:
            return speech
        ramp = np.linspace(0.0, 1.0, count, dtype=np.float32)
        faded = speech.astype(np.float32, copy=True)
        faded[:count] *= ramp
        faded[-count:] *= ramp[::-1]
        return faded
