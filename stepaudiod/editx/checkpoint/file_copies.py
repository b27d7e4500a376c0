"""Parts of files copied into tensors on a GPU, by threads. Independent of formats and networks.

    file ── pread ── pinned buffer ── GPU's copy ──┐
         ── pread ── pinned buffer ── GPU's copy ──┴── tensors

Each thread has two buffers: it fills one while the GPU reads the other. A copy out of a memory-mapped file
would go page by page, on one thread, and through a buffer of the driver.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.headers import mend, reading
from stepaudiod.errors import ModelFileError

PIECE_BYTES = 8 << 20
READERS = 8
"""Threads: on an H200's host four read 16 GB/s out of the page cache, eight 19, and more are no faster."""
GAP_BYTES = 64 << 10
"""Reading over so much of a file costs less than another call."""


class Part(NamedTuple):
    """The bytes of a contiguous tensor: at this offset of this file."""

    path: Path
    offset: int
    target: Tensor


class _Piece(NamedTuple):
    """What is read at once: `size` bytes, and where in them the bytes of tensors begin."""

    path: Path
    offset: int
    size: int
    targets: list[tuple[int, Tensor]]


class FileCopies:
    """Copies that are under way, from the moment this is made.

    Args:
        parts: what to copy; the tensors have the device's memory, and no values until `wait` returns.
        device: of all the tensors.
        progress: called with the number of bytes each time some have been read, by several threads.
    """

    def __init__(
        self, parts: Sequence[Part], device: torch.device, progress: Callable[[int], None] | None = None
    ) -> None:
        self._progress = progress
        self._pieces = deque(_cut(parts))
        self._before: torch.cuda.Event | None = None
        if device.type == "cuda":
            # memory that was used before may still be in use by work of this stream
            stream = torch.cuda.current_stream(device)
            self._before, device = stream.record_event(), stream.device
        self._device = device
        self._files = dict(_opened({piece.path for piece in self._pieces}))
        self._pool = ThreadPoolExecutor(READERS, "read weights")
        self._readers = [self._pool.submit(self._read) for _ in range(min(READERS, len(self._pieces)))]

    def wait(self) -> None:
        """Return when every tensor has its values.

        Raises:
            ModelFileError: a file is missing, can't be read, or is cut short.
        """
        self._pool.shutdown()
        for number in self._files.values():
            os.close(number)
        self._files.clear()
        for reader in self._readers:
            reader.result()

    def _read(self) -> None:
        try:
            with torch.inference_mode(), _Buffers(self._device, self._before) as buffers:
                while piece := self._next():
                    self._copy(piece, buffers)
        except BaseException:
            self._pieces.clear()
            raise

    def _next(self) -> _Piece | None:
        try:
            return self._pieces.popleft()
        except IndexError:  # another thread took the last
            return None

    def _copy(self, piece: _Piece, buffers: _Buffers) -> None:
        with buffers.next() as buffer:
            _fill(buffer[: piece.size].numpy().data, self._files[piece.path], piece)
            for start, target in piece.targets:
                target.copy_(buffer[start : start + target.numel()], non_blocking=True)
        if self._progress is not None:
            self._progress(sum(target.numel() for _, target in piece.targets))


class _Buffers:
    """A thread's two buffers, pinned for a GPU, and its stream there."""

    def __init__(self, device: torch.device, before: torch.cuda.Event | None) -> None:
        self._device, self._before = device, before
        self._buffers = [torch.frombuffer(mmap.mmap(-1, PIECE_BYTES), dtype=torch.uint8) for _ in range(2)]
        self._copied: deque[torch.cuda.Event] = deque()

    def __enter__(self) -> _Buffers:
        if self._before is not None:
            torch.cuda.set_device(self._device)  # of this thread
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._stream.wait_event(self._before)
            for buffer in self._buffers:  # where that is refused, the driver copies through memory of its own
                _cudart().cudaHostRegister(buffer.data_ptr(), PIECE_BYTES, 0)
        return self

    @contextmanager
    def next(self) -> Iterator[Tensor]:
        """Give the buffer that is free first; the copies that are begun within read it."""
        buffer, other = self._buffers
        self._buffers = [other, buffer]
        if self._before is None:
            yield buffer
            return
        if len(self._copied) == len(self._buffers):
            self._copied.popleft().synchronize()
        with torch.cuda.stream(self._stream):
            yield buffer
        self._copied.append(self._stream.record_event())

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self._stream.synchronize()
            for buffer in self._buffers:
                _cudart().cudaHostUnregister(buffer.data_ptr())


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _cut(parts: Sequence[Part]) -> Iterator[_Piece]:
    """Cut large parts, and join small ones that are near each other in a file."""
    piece: _Piece | None = None
    filled = [part for part in parts if part.target.numel()]
    for path, offset, target in sorted(filled, key=lambda part: (part.path, part.offset)):
        for values in torch.split(target.flatten().view(torch.uint8), PIECE_BYTES):
            if piece is not None and not _reaches(piece, path, offset, values.numel()):
                yield piece
                piece = None
            if piece is None:
                piece = _Piece(path, offset, 0, [])
            piece.targets.append((offset - piece.offset, values))
            offset += values.numel()
            piece = piece._replace(size=offset - piece.offset)
    if piece is not None:
        yield piece


def _reaches(piece: _Piece, path: Path, offset: int, size: int) -> bool:
    """Whether a piece can be made longer by these bytes."""
    gap = offset - piece.offset - piece.size
    return path == piece.path and gap <= GAP_BYTES and offset + size - piece.offset <= PIECE_BYTES


def _opened(paths: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    for path in paths:
        with reading(path, "readable file", OSError):
            yield path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _fill(buffer: memoryview, number: int, piece: _Piece) -> None:
    """Read a piece from the file of this number, without the interpreter's lock."""
    offset = piece.offset
    with reading(piece.path, "readable file", OSError):
        while buffer:
            size = os.preadv(number, [buffer], offset)
            if not size:
                raise ModelFileError(f"{piece.path} ends before byte {offset + len(buffer)}; {mend()}")
            buffer, offset = buffer[size:], offset + size
