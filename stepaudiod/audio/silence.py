"""Removal of silence from a stream of speech: pauses become short, without clicks.

speech │ tail │   silence   │ lead │ speech        input
speech │ tail ╳ lead │ speech                      output: tail and lead crossfaded
"""

from __future__ import annotations

from collections import deque

import numpy as np

from stepaudiod.audio.resample import Resampler
from stepaudiod.audio.types import SPEECH_RATE, Waveform
from stepaudiod.audio.vad import FRAME, Gate, SpeechDetector

KEPT_FRAMES = 5
"""Frames of 32 ms that are kept before and after speech: a pause of at most 0.3 s."""

FADE_S = 0.01


class SilenceRemover:
    """A stream without long silences; its rate is a multiple of 16 kHz."""

    def __init__(self, sample_rate: int) -> None:
        self.has_speech = False
        self.removed_samples = 0
        self._detect = SpeechDetector()
        self._gate = Gate()
        self._resample = Resampler(sample_rate, SPEECH_RATE)
        self._frame = FRAME * sample_rate // SPEECH_RATE
        self._fade = round(FADE_S * sample_rate)
        self._waiting: Waveform = np.zeros(0, np.float32)  # not yet classified
        self._lead: deque[Waveform] = deque(maxlen=KEPT_FRAMES)  # silence that may precede speech
        self._after = KEPT_FRAMES  # frames since the last speech
        self._end: Waveform = np.zeros(0, np.float32)  # end of the output, held back for a crossfade
        self._is_cut = False  # whether silence was removed since `_end`

    def push(self, waveform: Waveform) -> Waveform:
        """Process `(samples,)`; returns the output that is ready."""
        self._waiting = np.concatenate([self._waiting, waveform])
        return self._output(self._detect.push(self._resample(waveform)))

    def finish(self) -> Waveform:
        """Return the rest, faded out if silence was removed after it."""
        ready = self._output([*self._detect.push(self._resample(None)), *self._detect.finish()])
        self.removed_samples += sum(len(part) for part in self._lead) + len(self._waiting)
        end = self._end.copy()
        if self._lead:
            end *= np.linspace(1.0, 0.0, len(end), dtype=np.float32)
        return np.concatenate([ready, end])

    def _output(self, probabilities: list[float]) -> Waveform:
        parts = [np.zeros(0, np.float32)]
        for probability in probabilities:
            frame, self._waiting = np.split(self._waiting, [self._frame])
            parts.extend(self._classify(frame, self._gate(probability)))
        return np.concatenate(parts)

    def _classify(self, frame: Waveform, is_speech: bool) -> list[Waveform]:
        """The output that is ready after this frame."""
        if is_speech:
            self.has_speech, self._after = True, 0
            ready = [self._append(part) for part in (*self._lead, frame)]
            self._lead.clear()
            return ready
        if self._after < KEPT_FRAMES:
            self._after += 1
            return [self._append(frame)]
        if len(self._lead) == KEPT_FRAMES:
            self.removed_samples += len(self._lead[0])
            self._is_cut = True
        self._lead.append(frame)
        return []

    def _append(self, part: Waveform) -> Waveform:
        """Append a part to the output, with a crossfade if silence was removed before it."""
        ready = self._end
        if self._is_cut:
            fade = min(self._fade, len(part))
            rising = np.linspace(0.0, 1.0, fade, dtype=np.float32)
            part = part.copy()
            part[:fade] *= rising
            over = min(fade, len(ready))
            part[:over] += ready[len(ready) - over :] * rising[::-1][:over]
            ready = ready[: len(ready) - over]
            self.removed_samples += over
            self._is_cut = False
        kept = max(0, len(part) - self._fade)
        self._end = part[kept:]
        return np.concatenate([ready, part[:kept]])
