"""Valid recordings in many containers, and damaged ones made by a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.audio.bombs import BOMBS, encoded, mp3

WRONG = (
    b"",
    b"RIFF",
    b"{}",
    b"hello, world " * 50,
    b"\x89PNG\r\n\x1a\n" + bytes(300),
    b"%PDF-1.7\n" + bytes(300),
    b"PK\x03\x04" + bytes(300),
    b"#EXTM3U\nfile:///etc/passwd\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"\0" * 5000,
    bytes(range(256)) * 20,
)
"""What is no recording at all."""
SMALL_BOMBS = ("a cover picture", "a packed tag", "an endless table")


@dataclass(frozen=True)
class Damaged:
    """A file, its name, and its mutations."""

    name: str
    data: bytes
    how: str


def good() -> dict[str, bytes]:
    """A short recording in each container."""
    return {
        "clip.wav": encoded("wav", "pcm_s16le", 0.6, seed=1),
        "clip.flac": encoded("flac", "flac", 0.6, seed=2),
        "clip.mp3": mp3(0.6),
        "clip.ogg": encoded("ogg", "libopus", 0.6, 48_000, seed=4),
        "clip.m4a": encoded("mp4", "aac", 0.6, seed=5),
        "clip.aac": encoded("adts", "aac", 0.6, seed=6),
        "clip.webm": encoded("webm", "libopus", 0.6, 48_000, seed=7),
        "clip.ts": encoded("mpegts", "aac", 0.6, seed=8),
        "clip.flv": encoded("flv", "aac", 0.6, 44_100, seed=9),
    }


def damaged(count: int, seed: int) -> Iterator[Damaged]:
    """`count` damaged files, reproducible by the seed."""
    chance = random.Random(seed)
    sound = good()
    others = [*WRONG, *(BOMBS[name]() for name in SMALL_BOMBS)]
    for number in range(count):
        name = chance.choice(sorted(sound))
        if number % 12 == 0:
            data = others[number // 12 % len(others)]
            yield Damaged(name, data, "no recording")
            continue
        how = chance.choice(sorted(WAYS))
        yield Damaged(name, WAYS[how](chance, sound[name], sound), f"{number}: {name} {how}")


def _truncated(chance: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    return data[: chance.randrange(len(data))]


def _flipped(chance: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    """Flip random bits."""
    changed = bytearray(data)
    for _bit in range(chance.choice((1, 10, 200))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _lying(chance: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    """Change numbers in the header to large values or 0."""
    changed = bytearray(data)
    for _place in range(chance.randrange(1, 6)):
        at = chance.randrange(4, min(200, len(changed) - 8))
        changed[at : at + 4] = chance.choice(LIES)
    return bytes(changed)


LIES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\1")


def _torn(chance: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    """Remove or duplicate a range."""
    a, b = sorted(chance.randrange(len(data)) for _end in range(2))
    return data[:a] + data[b:] if chance.random() < 0.5 else data[:b] + data[a:]


def _spliced(chance: random.Random, data: bytes, sound: dict[str, bytes]) -> bytes:
    """Join the head of one file and the tail of another."""
    other = sound[chance.choice(sorted(sound))]
    return data[: chance.randrange(8, 400)] + other[chance.randrange(len(other)) :]


def _buried(chance: random.Random, data: bytes, _: dict[str, bytes]) -> bytes:
    """Prepend random bytes."""
    return chance.randbytes(chance.randrange(1, 3000)) + data


WAYS = {
    "truncated": _truncated,
    "flipped": _flipped,
    "lying": _lying,
    "torn": _torn,
    "spliced": _spliced,
    "buried": _buried,
}
