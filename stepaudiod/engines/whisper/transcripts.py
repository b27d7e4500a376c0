"""What a recording says, where nobody told: written down by the best recogniser that is installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudiod.engines.base import Clip
from stepaudiod.engines.whisper.certainty import is_guess
from stepaudiod.errors import InvalidRequest, Unsupported
from stepaudiod.requests import Recording, Segment, TranscriptionRequest

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from stepaudiod.engines.base import Transcribing

TRANSCRIPT = "audio_text"
"""What the model calls the transcript in its errors."""
NO_RECOGNISER = (
    "Nobody told what the recording says, and no recogniser is installed. Send its transcript, or run "
    "`stepaudioctl models pull whisper`."
)

UNSURE = "The recogniser {} isn't sure what the recording says. Send its transcript."


@contextmanager
def renaming_params(recording: Recording) -> Iterator[None]:
    """Let errors about a recording or its transcript name the fields that the client knows."""
    params = {
        "audio": recording.param,
        "input_audio": recording.param,
        TRANSCRIPT: recording.transcript_param,
        "file": recording.param,
    }
    try:
        yield
    except InvalidRequest as error:
        error.param = params.get(error.param or "", error.param)
        raise


class Listener:
    """The recogniser, loaded when it is first needed.

    Args:
        order: `name`, `factory`, `options`, `files` and `languages`.
        cache_dir: where it may keep files.
        threads: processor threads.
    """

    def __init__(self, order: dict[str, Any], cache_dir: Path, threads: int) -> None:
        self.name: str = order["name"]
        self.is_multilingual = len(order["languages"]) != 1
        self._order = order
        self._cache_dir = cache_dir
        self._threads = threads
        self._engine: Transcribing | None = None

    def find_place(self, room_bytes: int) -> int:
        """Choose the processor if a GPU has no such room beside the model; gives the bytes it takes there."""
        options = self._order["options"]
        if options.get("device", "cpu") == "cpu":
            return 0
        size = sum(Path(path).stat().st_size for path in self._order["files"])
        if size <= room_bytes:
            return size
        log.info("%s will run on the processor: it takes %.1f GB, and the GPU is full", self.name, size / 1e9)
        # a copy: the order came from elsewhere, and is what variants of the model are told apart by
        self._order = self._order | {"options": options | {"device": "cpu"}}
        return 0

    def write_down(self, clip: Clip, *, may_guess: bool = False) -> str:
        """What a recording says; "" where no words were heard.

        Args:
            clip: the recording.
            may_guess: whether a text that the recogniser isn't sure of is better than none.

        Raises:
            InvalidRequest: it isn't sure, or knows other languages only: the transcript is asked for.
        """
        if self._engine is None:
            module, _, name = self._order["factory"].partition(":")
            factory = getattr(import_module(module), name)
            engine: Transcribing = factory(
                cache_dir=self._cache_dir, threads=self._threads, **self._order["options"]
            )
            engine.load(lambda stage, fraction: None)
            self._engine = engine
        heard = self._engine.transcribe(TranscriptionRequest(Recording("")), clip)
        try:
            segments = [segment for segment in heard if isinstance(segment, Segment)]
        except Unsupported as error:
            raise InvalidRequest(f"Send what the recording says. {error}", TRANSCRIPT) from None
        if not may_guess and is_guess(segments):
            raise InvalidRequest(UNSURE.format(self.name), TRANSCRIPT)
        return " ".join(segment.text for segment in segments).strip()
