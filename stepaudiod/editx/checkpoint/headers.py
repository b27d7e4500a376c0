"""What can be told of a model file from its first bytes. Imports no torch, so that a front can ask.

Nothing here loads a weight.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepaudiod.errors import ModelFileError


def mend() -> str:
    """Say what to do about a damaged model file."""
    return "run `stepaudioctl models verify`, which says which `stepaudioctl models pull` mends it"


def unreadable(path: Path, error: OSError) -> ModelFileError:
    """Say that a file can't be read, and which command looks for the cause."""
    return ModelFileError(
        f"{error.filename or path} can't be read: {error.strerror or error}; `stepaudioctl doctor` says what "
        "to do"
    )


def safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Read a safetensors header and hold it against the file's size: name to dtype, shape and offsets.

    Raises:
        ModelFileError: the file is missing or cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise ValueError(f"its header would be {length} bytes long, the file has {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        expected = 8 + length + int(end)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; {mend()}") from None
    except PermissionError as error:
        raise unreadable(path, error) from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is no safetensors file: {error}; {mend()}") from error
    if size != expected:
        raise ModelFileError(f"{path}: expected {expected} bytes, found {size}; {mend()}")
    return dict(header)


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model folder.

    Raises:
        ModelFileError: it is missing or isn't one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; {mend()}") from None
    except PermissionError as error:
        raise unreadable(path, error) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no readable JSON: {error}; {mend()}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: expected an object, found {type(value).__name__}; {mend()}")
    return value
