"""What was pulled into a folder: where it came from, and the digest of each file. Knows no hub.

The manifest is written last. A folder without one was put there by hand.
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
    """One file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One folder.

    Attributes:
        source: `huggingface` or `modelscope`.
        endpoint: the server that was asked, a mirror perhaps.
        repository: its name there.
        revision: what was pulled: a commit where the hub tells it.
        files: by path in the folder.
    """

    source: str
    endpoint: str
    repository: str
    revision: str
    files: dict[str, FileRecord]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(record.size_bytes for record in self.files.values())

    def write(self, folder: Path) -> None:
        """Put it into the folder, whole or not at all."""
        unfinished = folder / f"{NAME}.part"
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
        os.replace(unfinished, folder / NAME)


def read(folder: Path) -> Manifest | None:
    """The folder's manifest; None where there is none.

    Raises:
        IncompleteModel: it can't be read.
    """
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
            "holds every file against the hub and writes a new one."
        ) from None
