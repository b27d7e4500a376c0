"""The manifest of a pulled folder: its source, and the digest of each file.

It is written last. A folder without a manifest was copied by hand.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from stepaudiod.ctl.errors import IncompleteModel

NAME = ".stepaudiod.json"


@dataclass(frozen=True, slots=True)
class FileRecord:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of one folder; the revision is a commit if the hub reports it."""

    source: str
    endpoint: str
    repository: str
    revision: str
    files: dict[str, FileRecord]

    @property
    def size_bytes(self) -> int:
        return sum(record.size_bytes for record in self.files.values())

    def write(self, folder: Path) -> None:
        unfinished = folder / f"{NAME}.part"
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
        os.replace(unfinished, folder / NAME)


def read(folder: Path) -> Manifest | None:
    """Read the folder's manifest; None if there is none, `IncompleteModel` if it can't be read."""
    path = folder / NAME
    try:
        fields = json.loads(path.read_text("utf-8"))
        files = {name: FileRecord(**record) for name, record in fields.pop("files").items()}
        return Manifest(files=files, **fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IncompleteModel(
            f"{path} isn't a manifest of this version ({error}). Delete it, then `stepaudioctl models pull` "
            "compares every file with the hub and writes a new one."
        ) from None
