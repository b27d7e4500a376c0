"""What a file holds, in one number: SHA-256, or git's own name for a small file. Knows no hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BLOCK_BYTES = 1 << 22

Told = Callable[[int], None]
"""Takes how many more bytes have been read."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a hub says that a file holds.

    Attributes:
        algorithm: `sha256`, or `git` for the name of a blob, which is all that Hugging Face tells of files
            that aren't in its large file storage.
        value: in hexadecimal.
    """

    algorithm: Literal["sha256", "git"]
    value: str


def digest(path: Path, algorithm: str, told: Told = lambda size: None) -> str:
    """Read the file and compute it, in hexadecimal."""
    if algorithm == "git":
        # not a matter of trust: git names its blobs so
        state = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            state.update(block)
            told(len(block))
    return state.hexdigest()
