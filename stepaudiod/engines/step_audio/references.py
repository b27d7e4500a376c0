"""Encoded recordings: the latest used in memory, and those of library voices in files."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stepaudiod.editx.reference import Reference
from stepaudiod.errors import InvalidRequest
from stepaudiod.temp_dirs import UNFINISHED, TempDir, sweep

log = logging.getLogger(__name__)

MAX_REFERENCES = 32
"""Each takes some hundred kilobytes."""


class References:
    """Those in memory, by a key of their content. Two threads may use it: each step is one operation."""

    def __init__(self) -> None:
        self._latest_last: OrderedDict[str, Reference] = OrderedDict()

    def remember(self, key: str, reference: Reference) -> Reference:
        self._latest_last[key] = reference
        if len(self._latest_last) > MAX_REFERENCES:
            self._latest_last.popitem(last=False)
        return reference

    def recall(self, key: str) -> Reference | None:
        found = self._latest_last.pop(key, None)
        return None if found is None else self.remember(key, found)


def read_encoded(path: Path) -> Reference | None:
    """An encoded voice; None if the file is missing, damaged or of another version."""
    if not path.exists():
        return None
    try:
        return Reference.from_tensors(load_file(path))
    except (InvalidRequest, SafetensorError, KeyError):
        return None


def write_encoded(reference: Reference, path: Path) -> None:
    """Write an encoded voice; if that fails, it is encoded again by the next worker."""
    sweep(path.parent)
    try:
        with TempDir(path.parent, UNFINISHED) as folder:
            unfinished = folder / path.name
            save_file(reference.to_tensors(), unfinished)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())  # before the rename: a power failure must not leave an empty file
            unfinished.rename(path)
    except (OSError, SafetensorError) as error:
        log.warning("the encoded voice can't be written to %s: %s", path.parent, error)
