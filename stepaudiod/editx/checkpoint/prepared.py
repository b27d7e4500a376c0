"""What loading computes from published files, kept in one file, from which it is copied to a GPU.

The file is a safetensors file. It belongs to published files of certain sizes and times, and a version of
this package; one that belongs to others is removed when a new one is written. Independent of networks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.headers import read_header, reading
from stepaudiod.editx.checkpoint.weights import DTYPES, Stored, stored_tensors
from stepaudiod.errors import ModelFileError
from stepaudiod.temp_dirs import UNFINISHED, TempDir, sweep

log = logging.getLogger(__name__)

VERSION = 1
"""Changes with the tensors in the file, or what they mean."""
PREFIX = "prepared-"
KEY_BYTES = 64 << 10
"""How much of a published file's beginning and end, where its header is, goes into the key."""
RESERVE_BYTES = 1 << 30
"""Room on the disk that is left unused."""
ALIGNMENT = 64
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class PreparedFile:
    """The file that belongs to these published files, in a folder; it may not exist.

    `prefix` is that of its name, and of others whose place it takes.
    """

    def __init__(self, folder: Path, published: Sequence[Path], prefix: str = PREFIX) -> None:
        self._prefix = prefix
        digest = hashlib.sha256(f"{VERSION}".encode())
        for path in published:
            found = path.stat()
            digest.update(f"\n{path.name}:{found.st_size}:{found.st_mtime_ns}:".encode())
            with path.open("rb") as file:
                digest.update(file.read(KEY_BYTES))
                file.seek(max(0, found.st_size - KEY_BYTES))
                digest.update(file.read(KEY_BYTES))
        self._key = digest.hexdigest()
        self.path = folder / f"{prefix}{self._key[:16]}.safetensors"

    def find(self) -> dict[str, Stored] | None:
        """Where its tensors are; None if it doesn't exist. A damaged one is removed."""
        try:
            if not os.path.exists(self.path):  # false also where the folder can't be looked into
                return None
            header = read_header(self.path)
            if header.pop("__metadata__", None) != self._metadata(header):
                raise ModelFileError(f"{self.path}: its header isn't what was written")
            return stored_tensors(self.path)
        except ModelFileError as error:
            self.remove(error)
            return None

    def remove(self, error: Exception) -> None:
        """Remove it: it can't be used because of this error."""
        log.warning("removing a damaged file, which will be made again: %s", error)
        with suppress(OSError):
            self.path.unlink()

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write it, and remove those of other published files.

        Raises:
            OSError: it can't be written, or the disk has too little room.
        """
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(folder)
        header, size = _plan(tensors)
        free = shutil.disk_usage(folder).free
        if free < size + RESERVE_BYTES:
            raise OSError(
                errno.ENOSPC,
                f"it takes {size / 1e9:.1f} GB and {RESERVE_BYTES / 1e9:.1f} GB are to stay free; "
                f"the disk has {free / 1e9:.1f} GB",
                str(self.path),
            )
        text = json.dumps({"__metadata__": self._metadata(header)} | header).encode()
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        with TempDir(folder, UNFINISHED) as unfinished:
            with (unfinished / self.path.name).open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                for name in header:
                    file.write(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().data)
                file.flush()
                os.fsync(file.fileno())  # before the rename: a power failure must not leave an empty file
            (unfinished / self.path.name).rename(self.path)
        for other in folder.glob(f"{self._prefix}*.safetensors"):
            if other != self.path:
                other.unlink(missing_ok=True)

    def _metadata(self, header: Mapping[str, Any]) -> dict[str, str]:
        entries = json.dumps(header, sort_keys=True).encode()
        return {"key": self._key, "entries": hashlib.sha256(entries).hexdigest()}


def read_bytes(stored: Stored) -> bytes:
    """Read a tensor of bytes.

    Raises:
        ModelFileError: the file is missing, can't be read, or is cut short.
    """
    with reading(stored.path, "readable file", OSError), stored.path.open("rb") as file:
        file.seek(stored.offset)
        content = file.read(stored.shape[0])
    if len(content) < stored.shape[0]:
        raise ModelFileError(f"{stored.path} ends before byte {stored.offset + stored.shape[0]}")
    return content


def _plan(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Any]], int]:
    """The header's entries in the file's order, and the size of all tensors.

    The format has no gaps: tensors whose sizes would put others at odd addresses are last.
    """
    header, end = {}, 0
    for name in sorted(tensors, key=lambda name: tensors[name].nbytes % ALIGNMENT != 0):
        tensor = tensors[name]
        offsets = [end, end + tensor.nbytes]
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        end = offsets[1]
    return header, end
