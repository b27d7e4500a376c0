"""Weights read from files and put into modules; each mismatch is named in the error. Independent of networks.

Files stay memory-mapped until a tensor is needed on its device, so loading to a GPU costs page cache, not
memory. Nothing in a model folder is ever executed: `.pt` files are read with `weights_only=True`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stepaudiod.editx.checkpoint.file_copies import FileCopies, Part
from stepaudiod.editx.checkpoint.headers import mend, read_config, safetensors_header, tensors_of
from stepaudiod.errors import ModelFileError

Progress = Callable[[int], None]
"""Called with the number of bytes each time some have been read."""
Neighbours = Callable[[str], tuple[str, ...]]
"""The names of tensors that one product reads, in order, to be stored as one; of one alone, its own name."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""Names of number formats in safetensors files, as far as weights use them."""


class Stored(NamedTuple):
    """Where a tensor's bytes are."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Find the tensors in a safetensors file.

    Raises:
        ModelFileError: the file is missing, cut short, or has a number format that no weights have.
    """
    header = safetensors_header(path)
    begin = path.stat().st_size - max((entry["data_offsets"][1] for entry in header.values()), default=0)
    found = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ModelFileError(f"{path}: tensor {name} is in {entry['dtype']}; {mend()}")
        at = begin + entry["data_offsets"][0]
        found[name] = Stored(path, at, tuple(entry["shape"]), DTYPES[entry["dtype"]])
    return found


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Memory-map a `.pt` file that holds a flat dictionary of tensors.

    Raises:
        ModelFileError: it is missing, cut short, or holds anything else.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; {mend()}") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        size = path.stat().st_size if path.exists() else 0
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFileError(
            f"{path} ({size} bytes) is no readable weights file: {reason}; {mend()}"
        ) from error
    return tensors_of(state, Tensor, path)


class SafetensorsFolder(Mapping[str, Tensor]):
    """The tensors of a folder of safetensors files, read one at a time.

    Raises:
        ModelFileError: a file is missing, or its size isn't what its header says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.exists():
            self._file_of = dict(read_config(index)["weight_map"])
        else:
            self._file_of = {}
            for path in sorted(folder.glob("*.safetensors")):
                self._file_of |= dict.fromkeys(safetensors_header(path), path.name)
        self.files = sorted(set(self._file_of.values()))
        if not self.files:
            raise ModelFileError(f"{folder} holds no .safetensors file; {mend()}")
        self._open: dict[str, Any] = {}
        self.stored: dict[str, Stored] = {}
        for name in self.files:
            self.stored |= stored_tensors(folder / name)
            self._open[name] = safe_open(folder / name, framework="pt", device="cpu")

    def __getitem__(self, name: str) -> Tensor:
        file = self._file_of[name]
        try:
            tensor: Tensor = self._open[file].get_tensor(name)
        except SafetensorError as error:
            raise ModelFileError(f"{self.folder / file}: tensor {name}: {error}; {mend()}") from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def install(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    on_host: Collection[str] = (),
) -> None:
    """Load `state` into a module that was built on the meta device, one tensor at a time.

    Floating point tensors are converted to `dtype`, if there is one; those named in `on_host` are neither
    moved nor converted. `progress` is called with each tensor's size in the file.

    Raises:
        ModelFileError: a tensor that the module has is missing or has another shape; up to three are named.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ModelFileError(f"{source}: {len(missing)} tensors are missing: {_some(missing)}; {mend()}")
    taken: dict[str, Tensor] = {}
    wrong = []
    for name, slot in wanted.items():
        tensor = state[name]
        if tensor.shape != slot.shape:
            wrong.append(f"{name}: expected {tuple(slot.shape)}, found {tuple(tensor.shape)}")
            continue
        if progress is not None:
            progress(tensor.numel() * tensor.element_size())
        if name not in on_host:
            tensor = tensor.to(device, dtype if tensor.is_floating_point() else None)
        taken[name] = tensor
    if wrong:
        raise ModelFileError(f"{source}: {len(wrong)} tensors have another shape: {_some(wrong)}; {mend()}")
    module.load_state_dict(taken, strict=True, assign=True)
    module.eval().requires_grad_(False)


def install_copied(
    module: nn.Module,
    mapped: Mapping[str, Tensor],
    stored: Mapping[str, Stored],
    source: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    on_host: Collection[str] = (),
    neighbours: Neighbours = lambda name: (name,),
) -> FileCopies:
    """Begin what `install` does, with tensors of safetensors files, by `FileCopies`.

    The same tensors, memory-mapped, are used for those named in `on_host` or to be converted.

    Returns:
        The copies; the module can be used when they are done.

    Raises:
        ModelFileError: see `install`.
    """
    arriving = Arriving(stored, device, neighbours)

    def is_copied(name: str) -> bool:
        of_file = stored[name].dtype
        return name not in on_host and (dtype in (None, of_file) or not of_file.is_floating_point)

    wanted = [name for name in module.state_dict() if name in stored]
    state = {name: arriving[name] if is_copied(name) else mapped[name] for name in wanted}
    install(module, state, source, device, dtype, None, on_host)
    if progress is not None:
        progress(sum(tensor.nbytes for name, tensor in state.items() if not is_copied(name)))
    return FileCopies(arriving.parts, device, progress)


class Arriving(Mapping[str, Tensor]):
    """The tensors of files on a device: allocated when they are asked for, with their values still to come.

    Args:
        stored: where they are.
        device: where they go.
        neighbours: see `Neighbours`.
    """

    def __init__(
        self,
        stored: Mapping[str, Stored],
        device: torch.device,
        neighbours: Neighbours = lambda name: (name,),
    ) -> None:
        self.parts: list[Part] = []
        """What is to be copied."""
        self._stored, self._device, self._neighbours = stored, device, neighbours
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            names = self._neighbours(name)
            found = [self._stored.get(each) for each in names]
            kinds = {None if each is None else (each.shape[1:], each.dtype) for each in found}
            self._allocate(names if len(kinds) == 1 and None not in kinds else (name,))
        return self._made[name]

    def _allocate(self, names: tuple[str, ...]) -> None:
        stored = [self._stored[name] for name in names]
        rows = [each.shape[0] if each.shape else 1 for each in stored]
        whole = torch.empty(sum(rows), *stored[0].shape[1:], dtype=stored[0].dtype, device=self._device)
        for name, each, tensor in zip(names, stored, torch.split(whole, rows), strict=True):
            self._made[name] = tensor.view(each.shape)
            self.parts.append(Part(each.path, each.offset, tensor))

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _SkipInit(TorchFunctionMode):
    """Has the functions of `torch.nn.init` return their tensor as it is."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Build modules on the meta device, whose parameters `install` then replaces.

    The parameters are not initialised. On the meta device PyTorch does that in Python, which would take most
    of the time.
    """
    with torch.device("meta"), _SkipInit():
        yield
