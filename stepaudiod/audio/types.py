"""Sound in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
"""Mono samples in -1..1, shape `(samples,)`."""

SPEECH_RATE = 16_000
"""Hz of the sound that recognisers and the speech detector take."""
