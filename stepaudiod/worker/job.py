"""One request inside the worker: its recording decoded, its iterator stepped, its results as frames.

A recording is decoded by a process of its own, for which a thread waits: other requests go on meanwhile.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from stepaudiod.audio.ai_marking import Mark
from stepaudiod.requests import (
    Audio,
    EditRequest,
    Facts,
    Recording,
    Segment,
    SpeechRequest,
    TranscriptionRequest,
)
from stepaudiod.worker.protocol import WINDOW_BYTES, Piece, StartJob, to_plain

if TYPE_CHECKING:
    from stepaudiod.audio.encode import Encoder
    from stepaudiod.engines.base import Clip, Cloning, Editing, Engine, Speaking, Transcribing, Waveform
    from stepaudiod.worker.decoder_process import Decoders

UNCOMPRESSED = ("wav", "pcm")


class Job:
    """One request: its iterator, its encoder and how much it may still send.

    Args:
        order: what to do.
        on_ready: called, from another thread, when its recording has been decoded.
        decoding: bounds how many recordings are decoded, and held in memory meanwhile, at a time.
        decoders: decode them.
    """

    def __init__(
        self,
        order: StartJob,
        on_ready: Callable[[], None],
        decoding: threading.Semaphore,
        decoders: Decoders,
    ) -> None:
        self.id = order.id
        self.engine = order.engine
        self.work = order.work
        self.format = order.format
        self.credit_bytes = WINDOW_BYTES
        self.work_s = 0.0
        self._limits = order.limits
        self._items: Iterator[Waveform | Facts | Segment] | None = None
        self._encoder: Encoder | None = None
        self._clip: Clip | None = None
        self._error: Exception | None = None
        self._is_closed = threading.Event()
        self._decoding = decoding
        self._decoders = decoders
        self.is_ready = self._recording is None
        if not self.is_ready:
            threading.Thread(target=self._decode, args=(on_ready,), name="decode", daemon=True).start()

    @property
    def _recording(self) -> Recording | None:
        """What the client sent with it."""
        return self.work.reference if isinstance(self.work, SpeechRequest) else self.work.recording

    @property
    def needs_codec(self) -> bool:
        """Whether the result is compressed audio."""
        return self.format is not None and self.format not in UNCOMPRESSED

    def _decode(self, on_ready: Callable[[], None]) -> None:
        """Read the recording; what is wrong with it is raised when the job is opened."""
        recording = self._recording
        assert recording is not None
        with self._decoding:
            try:
                is_unwanted = self._is_closed.is_set
                decoded = self._decoders.decode(
                    Path(recording.path), self._limits, recording.param, is_unwanted
                )
                from stepaudiod.engines.base import Clip

                self._clip = Clip(*decoded)
            except Exception as error:
                self._error = error
        self.is_ready = True
        on_ready()

    @property
    def is_open(self) -> bool:
        """Whether the work has begun."""
        return self._items is not None

    @property
    def has_failed(self) -> bool:
        """Whether there is no use in an engine: the recording can't be read."""
        return self._error is not None

    def open(self, engine: Engine) -> None:
        """Begin the work.

        Raises:
            StepaudiodError: the recording can't be used.
        """
        self.fail()
        if self.format is not None:
            from stepaudiod.audio.encode import make_encoder

            assert not isinstance(self.work, TranscriptionRequest)
            mark = Mark.of(self.work, self.engine.name) if self.work.is_marked else None
            self._encoder = make_encoder(self.format, engine.sample_rate, mark, _serial(self.work))
        self._sample_rate = engine.sample_rate
        self._items = self._begin(engine)

    def fail(self) -> None:
        """Raise what is wrong with the recording, if anything is."""
        if self._error is not None:
            raise self._error

    def _begin(self, engine: Engine) -> Iterator[Waveform | Facts | Segment]:
        """The engine's iterator; the front has asked only for what the engine's capabilities name."""
        work, clip = self.work, self._clip
        if isinstance(work, SpeechRequest):
            if clip is None:
                return cast("Speaking", engine).speak(work)
            return cast("Cloning", engine).clone(work, clip)
        assert clip is not None
        if isinstance(work, EditRequest):
            return cast("Editing", engine).edit(work, clip)
        return cast("Transcribing", engine).transcribe(work, clip)

    def step(self) -> tuple[list[Piece], bool]:
        """Take the next step: the pieces it makes, and whether it was the last."""
        assert self._items is not None
        item = next(self._items, None)
        if isinstance(item, Facts | Segment):
            return [Piece(self.id, item)], False
        if item is None:
            data, duration_s = self._encoder.finish() if self._encoder is not None else b"", 0.0
        elif not item.size:  # the engine works and has no sound yet
            return [], False
        else:
            assert self._encoder is not None
            data, duration_s = self._encoder.encode(item), len(item) / self._sample_rate
        self.credit_bytes -= len(data)
        is_last = item is None
        return ([Piece(self.id, Audio(data, duration_s))] if data or not is_last else []), is_last

    def close(self) -> None:
        """End the work wherever it is."""
        self._is_closed.set()
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


def _serial(work: SpeechRequest | EditRequest) -> int | None:
    """A number of 31 bits that the same request with the same seed has again; None without a seed."""
    if work.seed is None:
        return None
    if isinstance(work, EditRequest):
        work = work._replace(recording=work.recording._replace(path=""))
    elif work.reference is not None:
        work = work._replace(reference=work.reference._replace(path=""))
    return zlib.crc32(json.dumps(to_plain(work), sort_keys=True).encode()) >> 1
