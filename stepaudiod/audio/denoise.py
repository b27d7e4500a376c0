"""Noise suppression by RNNoise, a small network in a native library of the package pyrnnoise.

Only the library is used, by ctypes: the package's Python part would import a plotting library.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

from stepaudiod.audio.types import Waveform

RATE = 48_000
"""Hz of input and output."""

FRAME = 480
DELAY = 2 * FRAME
"""Samples by which the library's output lags behind its input."""

FULL_SCALE = 32768.0
"""The library's samples are floats in the range of 16 bit."""


def open_library() -> Any:
    """Load RNNoise.

    Raises:
        OSError: the package pyrnnoise is missing, or its library can't be loaded.
    """
    spec = find_spec("pyrnnoise")
    if spec is None or not spec.submodule_search_locations:
        raise OSError("the package pyrnnoise is missing")
    library = ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "librnnoise.so"))
    library.rnnoise_create.argtypes = [ctypes.c_void_p]
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    library.rnnoise_destroy.restype = None
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p] * 3
    library.rnnoise_process_frame.restype = ctypes.c_float
    return library


class Denoiser:
    """A stream of 48 kHz samples without noise, of the same length and without delay."""

    def __init__(self, library: Any) -> None:
        self._process = library.rnnoise_process_frame
        self._state = library.rnnoise_create(None)
        finalize(self, library.rnnoise_destroy, self._state)
        self._held: Waveform = np.zeros(0, np.float32)  # less than a frame
        self._ahead = DELAY  # samples of the library's output before the beginning
        self._owed = 0  # samples of the input without output so far

    def push(self, waveform: Waveform) -> Waveform:
        """Process `(samples,)`; returns the output that is ready."""
        self._owed += len(waveform)
        return self._clean(waveform)

    def finish(self) -> Waveform:
        owed = self._owed
        return self._clean(np.zeros(owed + self._ahead + FRAME, np.float32))[:owed]

    def _clean(self, waveform: Waveform) -> Waveform:
        samples = np.concatenate([self._held, waveform])
        whole = len(samples) // FRAME * FRAME
        self._held = samples[whole:]
        frames = np.ascontiguousarray(samples[:whole] * np.float32(FULL_SCALE))
        for start in range(frames.ctypes.data, frames.ctypes.data + frames.nbytes, FRAME * frames.itemsize):
            self._process(self._state, start, start)
        early = min(self._ahead, whole)
        self._ahead -= early
        self._owed -= whole - early
        return frames[early:] / np.float32(FULL_SCALE)
