"""Digests of files: SHA-256, or git's blob name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Digest:
    """A file's digest from a hub, in hexadecimal.

    A blob name is the only digest of Hugging Face for files that aren't in its large file storage.
    """

    algorithm: Literal["sha256", "git"]
    value: str


def digest(path: Path, algorithm: str, on_read: Callable[[int], None] = lambda size_bytes: None) -> str:
    """Compute the digest of a file, in hexadecimal; `on_read` gets the size of each block."""
    if algorithm == "git":
        # git's blob names are SHA-1; the digest is not used for security
        state = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            state.update(block)
            on_read(len(block))
    return state.hexdigest()
