"""The headers of model files: names and shapes of tensors, configurations. Imports no torch."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from stepaudiod.errors import ModelFileError
from stepaudiod.obstacles import READ, Needed, explain

MAX_PICKLE_BYTES = 16 << 20
"""Size of the largest directory of tensors that a `.pt` file may have; the published ones take 200 kB."""


T = TypeVar("T")


class HasShape(Protocol):
    """A tensor, or what is known of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class TensorHeader(NamedTuple):
    shape: tuple[int, ...]


def mend() -> str:
    """The advice about a damaged model file, for an error's message."""
    return "run `stepaudioctl models verify`, which prints the `stepaudioctl models pull` to run"


def unreadable(path: Path, error: OSError) -> ModelFileError:
    """The error of a file that can't be opened."""
    path = Path(error.filename or path)
    mend = explain(Needed(path, READ, path, "data")) or " `stepaudioctl doctor` says what to do"
    return ModelFileError(f"{path} can't be read: {error.strerror or error}.{mend}")


@contextmanager
def reading(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise `ModelFileError` for a file that is missing, can't be opened or isn't of this kind."""
    try:
        yield
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; {mend()}") from None
    except PermissionError as error:
        raise unreadable(path, error) from None
    except errors as error:
        raise ModelFileError(f"{path} is no {kind}: {error}; {mend()}") from error


def safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Read where a safetensors file's tensors are: name to dtype, shape and offsets.

    Raises:
        ModelFileError: see `read_header`.
    """
    header = read_header(path)
    header.pop("__metadata__", None)
    return header


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Read the whole header of a safetensors file, and compare it with the file's size.

    Raises:
        ModelFileError: the file is missing or cut short.
    """
    broken = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
    with reading(path, "safetensors file", *broken):
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise ValueError(f"its header would be {length} bytes long, the file has {size}")
            header = json.loads(file.read(length))
        tensors = (entry for name, entry in header.items() if name != "__metadata__")
        end = max((entry["data_offsets"][1] for entry in tensors), default=0)
        expected = 8 + length + int(end)
    if size != expected:
        raise ModelFileError(f"{path}: expected {expected} bytes, found {size}; {mend()}")
    return dict(header)


def torch_header(path: Path) -> dict[str, TensorHeader]:
    """Read names and shapes of the tensors in a `.pt` file.

    The pickle in it may name the few functions that rebuild tensors, and each is replaced by one that returns
    a shape: nothing in the file is executed.

    Raises:
        ModelFileError: the file is missing, cut short, or holds anything but a dictionary of tensors.
    """
    with (
        reading(path, "readable weights file", Exception),  # a damaged pickle may raise anything
        zipfile.ZipFile(path) as archive,
    ):
        entry = next(each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
        if entry.file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"its directory of tensors has {entry.file_size} bytes")
        with archive.open(entry) as file:
            state = _ShapeReader(file).load()
    return tensors_of(state, TensorHeader, path)


def tensors_of(state: object, kind: type[T], path: Path) -> dict[str, T]:
    """The tensors in a file's object.

    Raises:
        ModelFileError: it is no dictionary of them, nor has one as its `state_dict`.
    """
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, kind) for value in state.values()):
        raise ModelFileError(
            f"{path}: expected a dictionary of tensors, found {type(state).__name__}; {mend()}"
        )
    return state


class _ShapeReader(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> None:
        """Skip a tensor's storage."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, *rest: TensorHeader(tuple(shape))
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        if module == "torch" and name.endswith("Storage"):
            return None  # only part of a storage's id
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def count(state: Mapping[str, object], pattern: str, source: Path) -> int:
    """Count consecutive layers: the number of i from 0 for which `pattern.format(i)` is in `state`.

    Raises:
        ModelFileError: not even the first is in it.
    """
    found = 0
    while pattern.format(found) in state:
        found += 1
    if found == 0:
        raise ModelFileError(f"{source}: tensor {pattern.format(0)} is missing; {mend()}")
    return found


def shape_of(state: Mapping[str, HasShape], name: str, source: Path) -> tuple[int, ...]:
    """The shape of a tensor, from which a network takes its dimensions.

    Raises:
        ModelFileError: the tensor is missing.
    """
    if name not in state:
        raise ModelFileError(f"{source}: tensor {name} is missing; {mend()}")
    return tuple(state[name].shape)


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model folder.

    Raises:
        ModelFileError: it is missing or isn't one.
    """
    with reading(path, "readable JSON", OSError, ValueError, RecursionError):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: expected an object, found {type(value).__name__}; {mend()}")
    return value
