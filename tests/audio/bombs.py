"""Small files that unpack to huge ones, or claim to."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, cast

import av
import numpy as np

from stepaudiod.audio.encode import make_encoder

SIDE = 12_000
"""Pixels of the cover picture: 576 MB when it is unpacked."""


def encoded(container_format: str, codec: str, seconds: float, rate: int = 24_000, seed: int = 0) -> bytes:
    """A recording of quiet noise, or of silence if the seed is 0."""
    amplitude = 3000 if seed else 0
    noise = np.random.default_rng(seed)
    output = io.BytesIO()
    with av.open(output, "w", format=container_format) as container:
        stream = cast(Any, container.add_stream(codec, rate=rate, layout="mono"))
        for second in range(max(1, round(seconds))):
            length = rate if seconds >= 1 else round(seconds * rate)
            samples = noise.integers(-amplitude, amplitude + 1, (1, length)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, second * rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return output.getvalue()


def mp3(seconds: float = 1.0) -> bytes:
    """A valid mp3."""
    encoder = make_encoder("mp3", 24_000)
    waveform = np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * 24_000)).astype(np.float32)
    return encoder.encode(waveform) + encoder.finish()


def cover_picture() -> bytes:
    """An mp3 whose cover is a small PNG of very many pixels."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(SIDE * 4 + 1)) for _ in range(SIDE)) + packer.flush()
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0)
    chunks = (_png_chunk(b"IHDR", header), _png_chunk(b"IDAT", rows), _png_chunk(b"IEND", b""))
    picture = b"\0image/png\0\x03\0" + b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    frame = b"APIC" + _seven_bits(len(picture)) + b"\0\0" + picture
    return b"ID3\x04\0\0" + _seven_bits(len(frame)) + frame + mp3()


def packed_header() -> bytes:
    """A QuickTime file whose compressed index unpacks to a gigabyte."""
    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    inner = _atom(b"dcom", b"zlib") + _atom(b"cmvd", struct.pack(">I", 1 << 30) + zeros)
    return _atom(b"ftyp", b"qt  \0\0\0\0qt  ") + _atom(b"moov", _atom(b"cmov", inner))


def packed_tag() -> bytes:
    """An mp3 with a compressed text of a quarter of a gigabyte."""
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    body = _seven_bits((1 << 28) - 1) + text
    frame = b"TXXX" + _seven_bits(len(body)) + b"\0\x09" + body
    return b"ID3\x04\0\0" + _seven_bits(len(frame)) + frame + mp3()


def endless_table() -> bytes:
    """An m4a of a second whose tables claim 170 million samples."""
    data = bytearray(encoded("mp4", "aac", 1))
    struct.pack_into(">II", data, data.index(b"stsz") + 8, 4, 170_000_000)
    struct.pack_into(">I", data, data.index(b"stsc") + 16, 170_000_000)
    struct.pack_into(">I", data, data.index(b"stts") + 12, 170_000_000)
    return bytes(data)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _atom(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


def _seven_bits(number: int) -> bytes:
    """ID3's numbers, with seven bits per byte."""
    return bytes((number >> shift) & 127 for shift in (21, 14, 7, 0))


BOMBS = {
    "an hour of silence in flac": lambda: encoded("flac", "flac", 3600, 8_000),
    "three minutes of silence in opus": lambda: encoded("ogg", "libopus", 180, 48_000),
    "a cover picture": cover_picture,
    "a packed header": packed_header,
    "a packed tag": packed_tag,
    "an endless table": endless_table,
}
