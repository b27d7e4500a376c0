"""The frames between the front and its worker: a JSON header and a binary payload, each with its length.

    ┌───────────────┬────────────────┬───────────────┬─────────┐
    │ header length │ payload length │ header (JSON) │ payload │
    │ u32           │ u32            │               │         │
    └───────────────┴────────────────┴───────────────┴─────────┘

Front to worker: `work` (id, engine: its description, format, limits, request), `cancel` (id), `credit` (id,
size_bytes).
Worker to front: `beat` (progress, busy, gpu), `loading` (engine, stage, fraction), `loaded` (engine,
duration_s, about), `dropped` (engine), `audio` (id, duration_s; payload: encoded bytes), `segment` (id,
segment), `facts` (id, values), `done` (id, work_s), `failed` (id, error, message, param).

A worker sends at most `WINDOW_BYTES` of a request's audio beyond what the front has credited: a client that
reads slowly holds up its own request and nobody else's.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio  # the front has it; the worker starts sooner without it

LENGTHS = struct.Struct(">II")
WINDOW_BYTES = 512 * 1024

Header = dict[str, Any]


def pack(header: Header, payload: bytes = b"") -> bytes:
    """One frame."""
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return LENGTHS.pack(len(encoded), len(payload)) + encoded + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[Header, bytes]:
    """The front's side.

    Raises:
        asyncio.IncompleteReadError: the other side is gone.
    """
    header_size, payload_size = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
    header: Header = json.loads(await reader.readexactly(header_size))
    return header, await reader.readexactly(payload_size)


def receive_frame(connection: socket.socket) -> tuple[Header, bytes]:
    """The worker's side.

    Raises:
        EOFError: the other side is gone.
    """
    header_size, payload_size = LENGTHS.unpack(_receive_exactly(connection, LENGTHS.size))
    header: Header = json.loads(_receive_exactly(connection, header_size))
    return header, _receive_exactly(connection, payload_size)


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    """Exactly that many bytes."""
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
