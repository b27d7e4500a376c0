"""One request inside the worker: its recording decoded, its iterator stepped, its results as frames.

A recording is decoded by a process of its own, for which a thread waits: other requests go on meanwhile.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stepaudiod.audio.ai_marking import Mark
from stepaudiod.requests import (
    EditRequest,
    Facts,
    Recording,
    Segment,
    SpeechRequest,
    TranscriptionRequest,
    Work,
    from_json,
    to_json,
)
from stepaudiod.worker.protocol import WINDOW_BYTES, Header

if TYPE_CHECKING:
    from stepaudiod.audio.encode import Encoder
    from stepaudiod.engines.base import Clip, Cloning, Editing, Engine, Speaking, Transcribing, Waveform
    from stepaudiod.worker.decoder_process import Decoders

UNCOMPRESSED = ("wav", "pcm")


class Job:
    """One request: its iterator, its encoder and how much it may still send.

    Args:
        frame: the order it came with.
        on_ready: called, from another thread, when its recording has been decoded.
        decoding: bounds how many recordings are decoded, and held in memory meanwhile, at a time.
        decoders: decode them.
    """

    def __init__(
        self,
        frame: Header,
        on_ready: Callable[[int], None],
        decoding: threading.Semaphore,
        decoders: Decoders,
    ) -> None:
        self.id: int = frame["id"]
        self.engine = EngineOrder(frame["engine"])
        self.format: str | None = frame["format"]
        self.work: Work = from_json(frame["request"])
        self.credit_bytes = WINDOW_BYTES
        self.work_s = 0.0
        self._limits: dict[str, Any] = frame["limits"]
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

    def _decode(self, on_ready: Callable[[int], None]) -> None:
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
        on_ready(self.id)

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

    def step(self) -> tuple[list[tuple[Header, bytes]], bool]:
        """Take the next step: the frames it gives, and whether it was the last."""
        assert self._items is not None
        item = next(self._items, None)
        if item is None:
            rest = self._encoder.finish() if self._encoder is not None else b""
            last = [self._audio(rest, 0.0)] if rest else []
            return [*last, ({"op": "done", "id": self.id}, b"")], True
        if isinstance(item, Facts):
            return [({"op": "facts", "id": self.id, "values": item.values}, b"")], False
        if isinstance(item, Segment):
            words = [word._asdict() for word in item.words]
            segment = item._asdict() | {"words": words}
            return [({"op": "segment", "id": self.id, "segment": segment}, b"")], False
        if not item.size:  # the engine works and has no sound yet
            return [], False
        assert self._encoder is not None
        return [self._audio(self._encoder.encode(item), len(item) / self._sample_rate)], False

    def _audio(self, data: bytes, duration_s: float) -> tuple[Header, bytes]:
        """A frame of sound, on account of the credit."""
        self.credit_bytes -= len(data)
        return {"op": "audio", "id": self.id, "duration_s": duration_s}, data

    def close(self) -> None:
        """End the work wherever it is."""
        self._is_closed.set()
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


class EngineOrder:
    """Which engine a job wants, and how it is made.

    Args:
        table: `name`, `factory`, `options` and `files` of its description.
    """

    def __init__(self, table: Header) -> None:
        self.name: str = table["name"]
        self.factory: str = table["factory"]
        self.options: dict[str, Any] = table["options"]
        self.files: list[str] = table["files"]

    @property
    def key(self) -> str:
        """Tells two variants of a model apart."""
        return f"{self.factory} {json.dumps(self.options, sort_keys=True)}"


def _serial(work: SpeechRequest | EditRequest) -> int | None:
    """A number of 31 bits that the same request with the same seed has again; None without a seed."""
    if work.seed is None:
        return None
    if isinstance(work, EditRequest):
        work = work._replace(recording=work.recording._replace(path=""))
    elif work.reference is not None:
        work = work._replace(reference=work.reference._replace(path=""))
    return zlib.crc32(json.dumps(to_json(work), sort_keys=True).encode()) >> 1
