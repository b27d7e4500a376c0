"""One request inside the worker: its recording decoded, its engine run, its sound encoded.

A recording is decoded by a process of its own, for which a thread waits: other requests go on meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from stepaudiod.audio.ai_marking import Mark
from stepaudiod.requests import (
    Audio,
    EditRequest,
    Facts,
    Result,
    Segment,
    SpeechRequest,
    TranscriptionRequest,
)
from stepaudiod.worker.decoder_process import Decoders
from stepaudiod.worker.protocol import WINDOW_BYTES, EngineOrder, StartJob, to_plain

if TYPE_CHECKING:
    from stepaudiod.audio.encode import Encoder
    from stepaudiod.engines.base import Clip, Cloning, Editing, Engine, Speaking, Transcribing, Waveform

UNCOMPRESSED = ("wav", "pcm")
DECODED_AT_ONCE = 2
"""Recordings that are decoded, and held in memory meanwhile, at a time."""


class Recordings:
    """What decodes the recordings of all jobs."""

    def __init__(self) -> None:
        self.decoders = Decoders()
        self.turns = threading.Semaphore(DECODED_AT_ONCE)


class Job:
    """One request: its results, and how many bytes it may still send.

    `on_ready` is called, from another thread, when the recording has been decoded.
    """

    def __init__(
        self,
        order: StartJob,
        load: Callable[[EngineOrder], Engine],
        recordings: Recordings,
        on_ready: Callable[[], None],
    ) -> None:
        self.engine = order.engine
        self.credit_bytes = WINDOW_BYTES
        self.work_s = 0.0
        """Seconds that its steps took."""
        self.is_begun = self.is_done = False
        self.results = self._run(order, load)
        """A step each; None is a step without a result."""
        self._items: Iterator[Waveform | Facts | Segment] | None = None
        self._clip: Clip | None = None
        self._error: Exception | None = None
        self._is_closed = threading.Event()
        work = order.work
        recording = work.reference if isinstance(work, SpeechRequest) else work.recording
        self.is_ready = recording is None
        if recording is not None:
            path, is_unwanted = Path(recording.path), self._is_closed.is_set
            decode = partial(recordings.decoders.decode, path, order.limits, is_unwanted=is_unwanted)
            arguments = (decode, recordings.turns, on_ready)
            threading.Thread(target=self._decode, args=arguments, name="decode", daemon=True).start()
            threading.Thread(target=self._import, name="import", daemon=True).start()

    def _decode(
        self,
        decode: partial[tuple[Waveform, int]],
        turns: threading.Semaphore,
        on_ready: Callable[[], None],
    ) -> None:
        """Decode the recording; its error is raised by the first step."""
        with turns:
            try:
                decoded = decode()
                from stepaudiod.engines.base import Clip

                self._clip = Clip(*decoded)
            except Exception as error:
                self._error = error
        self.is_ready = True
        on_ready()

    def _import(self) -> None:
        """Import the engine while the recording is decoded; an error is reported when it is loaded."""
        with suppress(Exception):
            import_module(self.engine.factory.partition(":")[0])

    @property
    def has_failed(self) -> bool:
        """Whether the recording can't be read, so that no engine is needed."""
        return self._error is not None

    @property
    def can_step(self) -> bool:
        """Whether there is a result, which a batching engine may not have yet, and room for it."""
        return self.credit_bytes > 0 and getattr(self._items, "is_ready", True)

    def _run(
        self, order: StartJob, load: Callable[[EngineOrder], Engine]
    ) -> Generator[Result | None, None, None]:
        """Raises if the recording can't be used, the engine can't be loaded, or it fails."""
        if self._error is not None:
            raise self._error
        if order.format not in (None, *UNCOMPRESSED):  # the codecs are imported while the engine loads
            threading.Thread(target=import_module, args=("av",), daemon=True).start()
        engine, work, clip = load(order.engine), order.work, self._clip
        self.is_begun = True
        items: Iterator[Waveform | Facts | Segment]
        # the front has asked only for what the engine's capabilities name
        if isinstance(work, SpeechRequest) and clip is None:
            items = cast("Speaking", engine).speak(work)
        else:
            assert clip is not None
            match work:
                case SpeechRequest():
                    items = cast("Cloning", engine).clone(work, clip)
                case EditRequest():
                    items = cast("Editing", engine).edit(work, clip)
                case TranscriptionRequest():
                    items = cast("Transcribing", engine).transcribe(work, clip)
        encoder = _make_encoder(order, engine.sample_rate)
        self._items = items
        item: Waveform | Facts | Segment | None = Facts({})
        try:
            yield None  # an engine that batches requests begins now, and may be closed before it has a result
            while item is not None:
                started = time.monotonic()
                item = next(items, None)
                result = _result(item, encoder, engine.sample_rate)
                if isinstance(result, Audio):
                    self.credit_bytes -= len(result.data)
                self.work_s += time.monotonic() - started
                self.is_done = item is None
                yield result
        finally:
            for each in (items, encoder):
                if (close := getattr(each, "close", None)) is not None:
                    close()

    def close(self) -> None:
        self._is_closed.set()
        self.results.close()


def _result(
    item: Waveform | Facts | Segment | None, encoder: Encoder | None, sample_rate: int
) -> Result | None:
    if isinstance(item, Facts | Segment):
        return item
    if item is None:
        rest = encoder.finish() if encoder is not None else b""
        return Audio(rest, 0.0) if rest else None
    assert encoder is not None
    return Audio(encoder.encode(item), len(item) / sample_rate) if item.size else None


def _make_encoder(order: StartJob, sample_rate: int) -> Encoder | None:
    work = order.work
    if order.format is None or isinstance(work, TranscriptionRequest):
        return None
    from stepaudiod.audio.encode import make_encoder

    mark = Mark.of(work, order.engine.name) if work.is_marked else None
    return make_encoder(order.format, sample_rate, mark, _serial(work))


def _serial(work: SpeechRequest | EditRequest) -> int | None:
    """A number of 31 bits that the same request with the same seed has again; None without a seed."""
    if work.seed is None:
        return None
    if isinstance(work, EditRequest):
        work = work._replace(recording=work.recording._replace(path=""))
    elif work.reference is not None:
        work = work._replace(reference=work.reference._replace(path=""))
    return zlib.crc32(json.dumps(to_plain(work), sort_keys=True).encode()) >> 1
