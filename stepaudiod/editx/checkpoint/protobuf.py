"""A reader of the protobuf wire format, as far as two published files need it. Independent of schemas.

It exists so that half a gigabyte of ONNX weights can stay memory-mapped: the usual parsers copy every byte of
the file into the heap, and then each tensor once more. Nothing here allocates for a length-delimited field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(buffer: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Walk the fields of one message.

    Yields:
        Field number, wire type, and the value: an int for numbers, a view into `buffer` for everything else.

    Raises:
        ValueError: the bytes are no protobuf message, or are cut short.
    """
    position, end = 0, len(buffer)
    while position < end:
        key, position = _varint(buffer, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _varint(buffer, position)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, position = _varint(buffer, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if number == 0 or position + size > end:
            raise ValueError(f"a field of {size} bytes runs past the end at byte {position}")
        yield number, kind, buffer[position : position + size]
        position += size


def varints(value: int | memoryview) -> list[int]:
    """Read a repeated integer field's value, whether packed or single."""
    if isinstance(value, int):
        return [value]
    numbers, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        numbers.append(number)
    return numbers


def text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise ValueError("a string field holds a number")
    return bytes(value).decode("utf-8")


def view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a bytes field holds a number")
    return value


def float32(value: int | memoryview) -> float:
    return float(struct.unpack("<f", view(value))[0])


def _varint(buffer: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(buffer) or shift > 63:
            raise ValueError(f"a number is cut short at byte {position}")
        byte = buffer[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
