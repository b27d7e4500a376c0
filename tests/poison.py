"""An engine that ends its worker at certain texts, like a fault in native code."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from stepaudiod.engines.base import Waveform
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.requests import SpeechRequest


class Poison(HibariEngine):
    """Speaks; "die" ends the process at once, "die later" after the first audio."""

    def speak(self, request: SpeechRequest) -> Iterator[Waveform]:
        """Say the text."""
        if request.text != "die":
            yield from super().speak(request)
        if request.text.startswith("die"):
            signal.raise_signal(signal.SIGSEGV)  # to this thread, as a fault is
