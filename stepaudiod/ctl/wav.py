"""The header of a WAV file whose samples come behind other chunks. Knows nothing of sound."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEAD_BYTES = 4096
"""The samples of every file that the daemon makes begin before that."""
UNKNOWN_SIZE = 0xFFFF_FFFF
"""What a stream says of its length."""

_CHUNK = struct.Struct("<4sI")


@dataclass(frozen=True, slots=True)
class WavHeader:
    """What comes before the samples.

    Attributes:
        bytes_per_s: of samples.
        begin: the first sample's place in the file; the size of all of them is told in the four bytes before.
        size_bytes: that size; `UNKNOWN_SIZE` in a stream.
    """

    bytes_per_s: int
    begin: int
    size_bytes: int


def wav_header(head: bytes) -> WavHeader | None:
    """The header at a file's beginning; None where it isn't whole, or the file is no WAV."""
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
