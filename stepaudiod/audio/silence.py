"""Silence taken out of a stream of speech; the pauses that stay are short, and the joints don't click.

speech │ tail │   silence   │ lead │ speech        what comes in
speech │ tail ╳ lead │ speech                      what goes out: tail and lead crossfaded
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from stepaudiod.audio import vad as voice_activity
from stepaudiod.audio.resample import Resampler
from stepaudiod.audio.vad import Gate, SpeechDetector

Waveform = NDArray[np.float32]

KEPT_FRAMES = 5
"""Frames of 32 ms that stay before and after speech: a pause of at most 0.3 s."""

FADE_S = 0.01


class SilenceRemover:
    """A stream without what is silent longer than a short pause.

    Args:
        sample_rate: Hz, a multiple of 16000.
    """

    def __init__(self, sample_rate: int) -> None:
        self.has_speech = False
        self.removed_samples = 0
        self._detect = SpeechDetector()
        self._gate = Gate()
        self._resample = Resampler(sample_rate, voice_activity.RATE)
        self._frame = voice_activity.FRAME * sample_rate // voice_activity.RATE
        self._fade = round(FADE_S * sample_rate)
        self._waiting: Waveform = np.zeros(0, np.float32)  # came in, and not yet judged
        self._lead: deque[Waveform] = deque(maxlen=KEPT_FRAMES)  # silence that may come before speech
        self._after = KEPT_FRAMES  # frames since the last speech
        self._end: Waveform = np.zeros(0, np.float32)  # the last of what goes out, kept back for a joint
        self._is_cut = False  # whether something was left out since `_end`

    def push(self, waveform: Waveform) -> Waveform:
        """Take `(samples,)`; give what is ready."""
        self._waiting = np.concatenate([self._waiting, waveform])
        return self._sort(self._detect.push(self._resample(waveform)))

    def finish(self) -> Waveform:
        """Give the rest."""
        ready = self._sort([*self._detect.push(self._resample(None)), *self._detect.finish()])
        return np.concatenate([ready, self._close()])

    def _sort(self, probabilities: list[float]) -> Waveform:
        """What goes out of the frames that have been judged."""
        parts = [np.zeros(0, np.float32)]
        for probability in probabilities:
            frame, self._waiting = np.split(self._waiting, [self._frame])
            parts.extend(self._judge(frame, self._gate(probability)))
        return np.concatenate(parts)

    def _judge(self, frame: Waveform, is_speech: bool) -> list[Waveform]:
        """What goes out now that this frame is known."""
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
        """Put a part behind what went out, over a joint if something was left out between the two."""
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

    def _close(self) -> Waveform:
        """The end of the stream, faded out where silence was left out behind it."""
        self.removed_samples += sum(len(part) for part in self._lead) + len(self._waiting)
        end = self._end.copy()
        if self._lead:
            end *= np.linspace(1.0, 0.0, len(end), dtype=np.float32)
        return end
