"""The frames between the front and its worker.

    ┌───────────────┬────────────────┬───────────────┬─────────┐
    │ header length │ payload length │ header (JSON) │ payload │
    │ u32           │ u32            │               │         │
    └───────────────┴────────────────┴───────────────┴─────────┘

The header is one of the classes of `Frame`; the payload is the encoded audio of a `Piece`. Values are written
by field name: during an upgrade a front may start a worker of a newer version, whose fields may have another
order. A field that the receiver does not know is ignored.

The classes are not frozen: a frozen one takes half a millisecond longer to import.

A worker sends at most `WINDOW_BYTES` of a request's audio beyond what the front has credited, so a client
that reads slowly delays only its own request.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepaudiod.edits import Edit
from stepaudiod.requests import (
    Audio,
    EditRequest,
    EngineDescription,
    Facts,
    Recording,
    Result,
    Segment,
    SpeechRequest,
    TranscriptionRequest,
    Word,
    Work,
)

if TYPE_CHECKING:
    import asyncio  # the front has it; the worker starts sooner without it
    from io import BufferedReader

LENGTHS = struct.Struct(">II")
WINDOW_BYTES = 512 * 1024
TYPE = "$type"
"""The key of a value's class among its fields."""


@dataclass(slots=True)
class EngineOrder:
    """An engine and how it is made; see `requests.EngineDescription`."""

    name: str
    factory: str
    options: dict[str, Any]
    files: tuple[str, ...]

    @classmethod
    def of(cls, engine: EngineDescription) -> EngineOrder:
        """Take the part of a description that the worker needs."""
        return cls(engine.name, engine.factory, engine.options, engine.files)

    @property
    def key(self) -> str:
        """Differs between two variants of a model."""
        return f"{self.factory} {json.dumps(self.options, sort_keys=True)}"


@dataclass(slots=True)
class StartJob:
    """Front to worker: a request.

    Attributes:
        format: of the audio; None for a transcription.
        limits: of its recording, see `audio.decode.Limits`.
    """

    id: int
    engine: EngineOrder
    work: Work
    format: str | None
    limits: dict[str, float]


@dataclass(slots=True)
class CancelJob:
    """Front to worker: the rest of the results is not wanted."""

    id: int


@dataclass(slots=True)
class AddCredit:
    """Front to worker: the client has taken that much audio."""

    id: int
    size_bytes: int


@dataclass(slots=True)
class LoadEngine:
    """Front to worker: load an engine before a request needs it."""

    engine: EngineOrder


@dataclass(slots=True)
class PrepareCheckpoint:
    """Front to worker: the driver is going to take its memory off the GPU. Answered by `HeldGpu`."""


@dataclass(slots=True)
class EndCheckpoint:
    """Front to worker: its memory is on the GPU again, or has never left it."""


@dataclass(slots=True)
class Heartbeat:
    """Worker to front, at a fixed interval.

    Attributes:
        progress: grows while the work moves; it stops when that of any model hangs.
        is_busy: whether a step is being taken.
        gpu: `allocated_bytes` and `reserved_bytes`; empty without a GPU.
    """

    progress: int = 0
    is_busy: bool = False
    gpu: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class HeldGpu:
    """Worker to front: bytes on each card by its UUID; none if it uses no GPU."""

    cards: dict[str, int]


@dataclass(slots=True)
class EngineLoading:
    """Worker to front: the stage that loading has reached, and the fraction done, 0..1."""

    engine: str
    stage: str
    fraction: float

    def __str__(self) -> str:
        return f"loading {self.engine}: {self.stage} {self.fraction:.0%}"


@dataclass(slots=True)
class EngineLoaded:
    """Worker to front: an engine is in memory; `about` is for the status."""

    engine: str
    duration_s: float
    about: dict[str, Any]


@dataclass(slots=True)
class EngineWarm:
    """Worker to front: an engine has prepared everything that it prepares after its first request."""

    engine: str


@dataclass(slots=True)
class EngineDropped:
    """Worker to front: an engine has been freed, or could not be loaded."""

    engine: str


@dataclass(slots=True)
class Piece:
    """Worker to front: a part of a job's result."""

    id: int
    result: Result


@dataclass(slots=True)
class JobDone:
    """Worker to front: every piece has been sent; `work_s` is the time that the steps took."""

    id: int
    work_s: float


@dataclass(slots=True)
class JobFailed:
    """Worker to front: a job, or loading with `NO_JOB`, ended with an error.

    Attributes:
        error: the name of its class in `stepaudiod.errors`.
        param: of an `InvalidRequest`.
    """

    id: int
    error: str
    message: str
    param: str | None = None


NO_JOB = 0
"""The id of no job."""

ToWorker = StartJob | CancelJob | AddCredit | LoadEngine | PrepareCheckpoint | EndCheckpoint
EngineChange = EngineLoading | EngineLoaded | EngineWarm | EngineDropped
ToFront = Heartbeat | HeldGpu | EngineChange | Piece | JobDone | JobFailed

_TYPES: dict[str, Any] = {
    each.__name__: each
    for each in (
        *(StartJob, CancelJob, AddCredit, LoadEngine, PrepareCheckpoint, EndCheckpoint, EngineOrder),
        *(Heartbeat, HeldGpu, EngineLoading, EngineLoaded, EngineWarm, EngineDropped),
        *(Piece, JobDone, JobFailed),
        *(SpeechRequest, EditRequest, TranscriptionRequest, Recording, Edit),
        *(Audio, Segment, Word, Facts),
    )
}


def pack(frame: ToWorker | ToFront) -> bytes:
    """Encode a frame."""
    header = json.dumps(to_plain(frame), separators=(",", ":")).encode()
    payload = frame.result.data if isinstance(frame, Piece) and isinstance(frame.result, Audio) else b""
    return LENGTHS.pack(len(header), len(payload)) + header + payload


async def read_frame(reader: asyncio.StreamReader) -> ToFront:
    """Read a frame in the front.

    Raises:
        asyncio.IncompleteReadError: the worker is gone.
    """
    header_size, payload_size = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
    frame: ToFront = _typed(json.loads(await reader.readexactly(header_size)))
    if isinstance(frame, Piece) and isinstance(frame.result, Audio):
        return Piece(frame.id, Audio(await reader.readexactly(payload_size), frame.result.duration_s))
    return frame


def receive_frame(file: BufferedReader) -> ToWorker:
    """Read a frame in the worker.

    Raises:
        EOFError: the front is gone.
    """
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        raise EOFError
    header_size, _ = LENGTHS.unpack(lengths)
    header = file.read(header_size)
    if len(header) < header_size:
        raise EOFError
    frame = _typed(json.loads(header))
    if not isinstance(frame, ToWorker):
        raise ValueError("a frame of an unknown type")
    return frame


def to_plain(value: Any) -> Any:
    """Turn dataclasses and named tuples into dictionaries with their class under `TYPE`; bytes into None."""
    kind = type(value)
    if kind.__name__ in _TYPES:
        return {TYPE: kind.__name__} | {n: to_plain(getattr(value, n)) for n in kind.__match_args__}
    if isinstance(value, list | tuple):
        return [to_plain(each) for each in value]
    return None if isinstance(value, bytes) else value


def _typed(value: Any) -> Any:
    if isinstance(value, list):
        return [_typed(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind = _TYPES.get(value.get(TYPE, ""))
    if kind is None:
        return value
    fields = {name: _typed(value[name]) for name in kind.__match_args__ if name in value}
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
