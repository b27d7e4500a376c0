"""Detection of English speech from the states of Whisper tiny.en's encoder.

The decoder of an English model turns every language into English words, some of them as likely as true ones.
Its encoder separates languages: a logistic regression on mean and deviation of its states over a window does.
`python -m tests.bench.spoken_english` fits and evaluates it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STATES_PER_S = 50
LEAST_STATES = 5
WEIGHTS = Path(__file__).parent / "spoken_english.bin"
"""769 little-endian float32: weights of the 384 means, of the 384 deviations, and the constant."""


def pooled(encoded: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
    """The features of the regression: mean and standard deviation of each state, `(768,)`.

    The encoder's states are of 30 s, `(1, 1500, 384)`, with `seconds` of sound in them.
    """
    states = encoded[0, : max(LEAST_STATES, round(seconds * STATES_PER_S))]
    return np.concatenate([states.mean(axis=0), states.std(axis=0)])


class EnglishProbe:
    """The fitted regression."""

    def __init__(self, path: Path = WEIGHTS) -> None:
        self._weights = np.fromfile(path, "<f4")  # (769,)

    def log_odds(self, encoded: NDArray[np.float32], seconds: float) -> float:
        """Above 0 if English is likelier than another language; the arguments are those of `pooled`."""
        return float(pooled(encoded, seconds) @ self._weights[:-1] + self._weights[-1])
