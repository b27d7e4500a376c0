"""Whether a window of speech is in English, told from the states of Whisper tiny.en's encoder.

The decoder of a model that knows English only turns every language into English words, some of them as
likely as true ones. Its encoder doesn't: mean and deviation of its states over a window tell languages apart
by a plain logistic regression. `python -m tests.bench.spoken_english` fits it, and says how well it does.
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
    """What the regression looks at.

    Args:
        encoded: `(1, 1500, 384)`, the encoder's states of 30 s.
        seconds: how much of them is sound.

    Returns:
        `(768,)`: mean and standard deviation of each feature.
    """
    states = encoded[0, : max(LEAST_STATES, round(seconds * STATES_PER_S))]
    return np.concatenate([states.mean(axis=0), states.std(axis=0)])


class EnglishProbe:
    """The regression, fitted.

    Args:
        path: its weights, as `WEIGHTS`.
    """

    def __init__(self, path: Path = WEIGHTS) -> None:
        self._weights = np.fromfile(path, "<f4")  # (769,)

    def log_odds(self, encoded: NDArray[np.float32], seconds: float) -> float:
        """Above 0 where English is likelier than another language; arguments as those of `pooled`."""
        return float(pooled(encoded, seconds) @ self._weights[:-1] + self._weights[-1])
