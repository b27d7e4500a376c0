"""WAV headers, and the size and duration of received audio."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEAD_BYTES = 4096
"""Longer than the header of every file that the daemon makes."""
PCM_BYTES_PER_S = 24_000 * 2

_CHUNK = struct.Struct("<4sI")


@dataclass(frozen=True, slots=True)
class WavHeader:
    """`begin` is the offset of the first sample; the four bytes before it are `size_bytes`."""

    bytes_per_s: int
    begin: int
    size_bytes: int


def wav_header(head: bytes) -> WavHeader | None:
    """Parse the beginning of a file; None if the header is incomplete or the file isn't WAV."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at, bytes_per_s = 12, 0
    while at + _CHUNK.size <= len(head):
        name, size = _CHUNK.unpack_from(head, at)
        at += _CHUNK.size
        if name == b"data":
            return WavHeader(bytes_per_s, at, size)
        if name == b"fmt ":
            bytes_per_s = int.from_bytes(head[at + 8 : at + 12], "little")
        at += size + size % 2
    return None


class ReceivedAudio:
    def __init__(self, audio_format: str) -> None:
        self.size_bytes = 0
        self._format = audio_format
        self._head = b""
        self._header: WavHeader | None = None

    def add(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self._format == "wav" and self._header is None and len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
            self._header = wav_header(self._head)

    @property
    def duration_s(self) -> float | None:
        """Seconds of audio so far; None if the format has no constant byte rate."""
        if self._format == "pcm":
            return self.size_bytes / PCM_BYTES_PER_S
        if self._header is None or not self._header.bytes_per_s:
            return None
        return (self.size_bytes - self._header.begin) / self._header.bytes_per_s

    def __str__(self) -> str:
        duration_s = self.duration_s
        size = f"{self.size_bytes / 1000:.0f} kB" if duration_s is None else f"{duration_s:.1f} s"
        return f"{size} of audio"
