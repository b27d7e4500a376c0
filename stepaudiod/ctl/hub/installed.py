"""The installed models: listing, verifying and removing them, without a hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stepaudiod.ctl.errors import IncompleteModel
from stepaudiod.ctl.hub import digests, manifest
from stepaudiod.ctl.hub.catalog import EDITX, MODELS, PULLING, PublishedModel, Repository
from stepaudiod.ctl.hub.download import discard, locked
from stepaudiod.ctl.hub.manifest import Manifest
from stepaudiod.ctl.hub.progress import Progress
from stepaudiod.editx.checkpoint.headers import mend, safetensors_header
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.errors import ModelFileError


@dataclass(frozen=True, slots=True)
class Installed:
    """A model with its folders; `by hand` seems complete, but has no manifest."""

    model: PublishedModel
    folders: tuple[Path, ...]
    manifests: tuple[Manifest, ...]
    size_bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class Problem:
    file: str
    message: str


def list_installed(root: Path) -> list[Installed]:
    return [found for model in MODELS if (found := find_installed(model, root))]


def find_installed(model: PublishedModel, root: Path) -> Installed | None:
    """The installed files of a model; None if there are none."""
    folders = [root / repository.folder for repository in model.repositories]
    staging = [root / PULLING / repository.folder for repository in model.repositories]
    here = tuple(folder for folder in folders if os.path.lexists(folder))
    started = [folder for folder in staging if folder.exists()]
    if not here and not started:
        return None
    manifests = tuple(found for _, found in _manifests(model, root)[0])
    if started or any(check_quickly(model, root)):
        state = "incomplete"
    else:
        state = "complete" if len(manifests) == len(folders) else "by hand"
    size_bytes = sum(_size_bytes(folder) for folder in (*here, *started))
    return Installed(model, here, manifests, size_bytes, state)


def check_quickly(model: PublishedModel, root: Path) -> Iterator[Problem]:
    """Check sizes and headers, without reading the weights."""
    manifests, wrong = _manifests(model, root)
    for repository, found in manifests:
        for name, record in found.files.items():
            if problem := _check_size(root / repository.folder / name, record.size_bytes):
                wrong.append(problem)
    yield from wrong or _structure(model, root)


def check_digests(model: PublishedModel, root: Path, progress: Progress) -> Iterator[Problem]:
    """Check the digest of every file in the manifests; if all are correct, check the structure too."""
    manifests, wrong = _manifests(model, root)
    progress.start("checking", 0, sum(found.size_bytes for _, found in manifests))
    for repository, found in manifests:
        wrong += _check_files(root / repository.folder, found, progress)
    yield from wrong or _structure(model, root)


def _manifests(model: PublishedModel, root: Path) -> tuple[list[tuple[Repository, Manifest]], list[Problem]]:
    manifests, wrong = [], []
    for repository in model.repositories:
        folder = root / repository.folder
        try:
            if found := manifest.read(folder):
                manifests.append((repository, found))
        except IncompleteModel as error:
            wrong.append(Problem(str(folder / manifest.NAME), error.message))
    return manifests, wrong


def _check_files(folder: Path, found: Manifest, progress: Progress) -> Iterator[Problem]:
    for name, record in found.files.items():
        path = folder / name
        if problem := _check_size(path, record.size_bytes):
            yield problem
            continue
        sha256 = digests.digest(path, "sha256", partial(progress.add, path.name))
        if sha256 != record.sha256:
            yield Problem(str(path), f"{path}: expected sha256 {record.sha256}, found {sha256}")


def _check_size(path: Path, size_bytes: int) -> Problem | None:
    if not path.is_file():
        return Problem(str(path), f"{path} is missing")
    if (found := path.stat().st_size) != size_bytes:
        return Problem(str(path), f"{path}: expected {size_bytes} bytes, found {found}")
    return None


def _structure(model: PublishedModel, root: Path) -> Iterator[Problem]:
    if model is EDITX:
        for error in Checkpoint(root).problems():
            yield Problem("", _without_advice(error))
        return
    for path in (root / r.folder / name for r in model.repositories for name in r.needed):
        if not path.is_file():
            yield Problem(str(path), f"{path} is missing")
        elif path.suffix == ".safetensors":
            try:
                safetensors_header(path)
            except ModelFileError as error:
                yield Problem(str(path), _without_advice(error))


def _without_advice(error: ModelFileError) -> str:
    """The message without the advice to verify the model, which is what this command does."""
    return error.message.removesuffix(f"; {mend()}")


def remove(model: PublishedModel, root: Path) -> None:
    with locked(root):
        for repository in model.repositories:
            for name in (repository.folder, *repository.derived):
                discard(root / name)
            discard(root / PULLING / repository.folder)


def _size_bytes(folder: Path) -> int:
    """The size of a folder; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
