"""Transcripts of recordings that came without one, by the best recogniser that is installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepaudiod.engines.base import Clip, Recognisers
from stepaudiod.engines.whisper.certainty import is_guess
from stepaudiod.errors import InvalidRequest, Unsupported
from stepaudiod.requests import Recording, Segment, TranscriptionRequest

log = logging.getLogger(__name__)

NO_RECOGNISER = (
    "The recording came without a transcript, and no recogniser is installed. Send its transcript, or run "
    "`stepaudioctl models pull whisper`."
)
UNSURE = "The recogniser {} isn't sure what the recording says. Send its transcript."


@contextmanager
def renaming_params(recording: str = "recording", transcript: str = "transcript") -> Iterator[None]:
    """Replace the model's parameter names in errors by fields of a request."""
    params = {"waveform": recording, "recording": recording, "transcript": transcript, "edit": "kind"}
    try:
        yield
    except InvalidRequest as error:
        error.param = params.get(error.param or "", error.param)
        raise


class Recogniser:
    """The engine that transcribes references, loaded at its first use; it serves transcriptions too."""

    def __init__(self, order: dict[str, Any], engines: Recognisers) -> None:
        self.name: str = order["name"]
        self.is_multilingual = len(order["languages"]) != 1
        self._order = order
        self._engines = engines

    def reserve_gpu(self, capacity_bytes: int) -> int:
        """Reserve GPU memory beside the model; returns the bytes, 0 if it runs on the CPU or is loaded.

        If it needs more than the capacity, it will run on the CPU.
        """
        if self._order["options"].get("device", "cpu") == "cpu" or self._engines.is_loaded(self._order):
            return 0
        size = sum(Path(path).stat().st_size for path in self._order["files"])
        is_too_large = size > capacity_bytes
        self._engines.run_on_cpu(self._order, is_too_large)
        if is_too_large:
            log.info("%s will run on the CPU: it takes %.1f GB, and the GPU is full", self.name, size / 1e9)
        return 0 if is_too_large else size

    def transcribe(self, clip: Clip, *, may_guess: bool = False) -> str:
        """The transcript of a recording; "" if there are no words.

        Raises:
            InvalidRequest: it is uncertain, unless it may be, or in a language that the engine lacks.
        """
        engine = self._engines.recogniser(self._order)
        try:
            results = engine.transcribe(TranscriptionRequest(Recording("")), clip)
            segments = [result for result in results if isinstance(result, Segment)]
        except Unsupported as error:
            raise InvalidRequest(f"Send what the recording says. {error}", "transcript") from None
        if not may_guess and is_guess(segments):
            raise InvalidRequest(UNSURE.format(self.name), "transcript")
        return " ".join(segment.text for segment in segments).strip()
