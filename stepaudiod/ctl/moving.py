"""Moves the contents of one folder of models to another, with the rights of the user that owns them.

    TARGET/
      .moving/source         the folder that is moved, until all of it is done
      .moving/files/…        verified copies, until all are there
      Step-Audio-EditX/…

Where both folders are on one file system the copies are hard links. Nothing of the source is removed before
`remove_source`, so the move may be interrupted at any time, and begins again where it was.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stepaudiod.ctl.errors import IncompleteModel, InsufficientSpace
from stepaudiod.ctl.hub import digests
from stepaudiod.ctl.hub.catalog import FOLDERS, PULLING
from stepaudiod.ctl.hub.download import locked
from stepaudiod.ctl.hub.progress import Progress, size
from stepaudiod.engines.local_models import WHISPER

MOVING = ".moving"
MOUNT_POINT = "lost+found"
MODELS = set(FOLDERS) - {PULLING}
CHUNK_BYTES = 8 << 20
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)
"""Errors of file systems without hard links, and between two of them."""


def source_of(target: Path) -> Path | None:
    """The source of an interrupted move to this folder; None if there was none."""
    try:
        return Path((target / MOVING / "source").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def has_entries(folder: Path) -> bool:
    """Whether a folder has anything in it but what a move or a pull, or mkfs, leaves there."""
    try:
        return any(name not in (MOVING, PULLING, MOUNT_POINT) for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return False


def models_in(folder: Path) -> list[Path]:
    """The folders of models in a folder that aren't empty."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    named = (folder / name for name in names if name in MODELS or name.startswith(WHISPER))
    return [each for each in named if has_entries(each)]


def copy(source: Path, target: Path, progress: Progress) -> int:
    """Copy all of the source, verified and on the disk, into an empty or partly filled target.

    Returns:
        The size of the source in bytes.

    Raises:
        InsufficientSpace: the copy would not fit; nothing was copied.
        IncompleteModel: a file can't be moved, or was written wrongly.
    """
    files = target / MOVING / "files"
    if source_of(target) not in (None, source):  # of a move that was given up
        shutil.rmtree(target / MOVING)
    files.mkdir(parents=True, exist_ok=True)
    (target / MOVING / "source").write_text(str(source), encoding="utf-8")
    with locked(source, make=True):
        _require_rights(source)
        paths = list(_files(source))
        total_bytes = sum(path.lstat().st_size for path in paths)
        _require_space(source, target, paths)
        progress.start("moving", 0, total_bytes)
        for path in paths:
            inner = path.relative_to(source)
            if not _is_same(path, target / inner):
                _copy_file(path, files / inner, source, progress)
        for name in sorted(os.listdir(files)):
            _merge(files / name, target / name)
        _sync_folders(target)
    return total_bytes


def remove_source(source: Path, target: Path) -> None:
    """Remove what `copy` has copied, and its notes."""
    if not source.is_dir():
        shutil.rmtree(target / MOVING)
        return
    with locked(source, make=True):
        for path in _files(source):
            if not _is_same(path, target / path.relative_to(source)):
                raise IncompleteModel(f"{path} has changed since it was moved. Run the same command again.")
        for path in list(_files(source)):
            path.unlink()
        for folder, _, _ in reversed(list(_walk(source))):
            with suppress(OSError):  # it may be in a folder of root, or a mount point
                os.rmdir(folder)
    shutil.rmtree(target / MOVING)


def _walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` without what mkfs leaves."""
    for path, folders, names in os.walk(top, onerror=_fail):
        if path == str(top) and MOUNT_POINT in folders:
            folders.remove(MOUNT_POINT)
        yield path, folders, names


def _files(folder: Path) -> Iterator[Path]:
    """Every file and link below a folder."""
    for path, folders, names in _walk(folder):
        for name in (*names, *(each for each in folders if os.path.islink(os.path.join(path, each)))):
            found = Path(path, name)
            kind = found.lstat().st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISLNK(kind)):
                raise IncompleteModel(f"{found} isn't a file, so it can't be moved. Remove it.")
            yield found


def _require_rights(folder: Path) -> None:
    """Require that everything can be removed later."""
    for path, _, _ in _walk(folder):
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def _fail(error: OSError) -> None:
    raise error


def _require_space(source: Path, target: Path, paths: list[Path]) -> None:
    if source.stat().st_dev == target.stat().st_dev:
        return
    missing = (
        path for path in paths
        if not _is_same(path, target / path.relative_to(source))
        and not _is_same(path, target / MOVING / "files" / path.relative_to(source))
    )  # fmt: skip
    needed_bytes = sum(path.lstat().st_size for path in missing)
    free_bytes = shutil.disk_usage(target).free
    if needed_bytes > free_bytes:
        raise InsufficientSpace(
            f"The models need {size(needed_bytes)} in {target}, and {size(free_bytes)} are free. Nothing was "
            "moved. Free some space, or choose another disk."
        )


def _is_same(path: Path, copied: Path) -> bool:
    """Whether a copy is complete: it gets its time when it has been verified."""
    try:
        one, other = path.lstat(), copied.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISLNK(one.st_mode) == stat.S_ISLNK(other.st_mode) and (
        stat.S_ISLNK(one.st_mode) or (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
    )


def _copy_file(path: Path, copied: Path, source: Path, progress: Progress) -> None:
    found = path.lstat()
    if _is_same(path, copied):
        progress.add(path.name, found.st_size)
        return
    copied.parent.mkdir(parents=True, exist_ok=True)
    copied.unlink(missing_ok=True)
    if stat.S_ISLNK(found.st_mode):
        copied.symlink_to(_link_target(path, source))
        return
    try:
        os.link(path, copied, follow_symlinks=False)
        progress.add(path.name, found.st_size)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        _copy_bytes(path, copied, progress)
        os.utime(copied, ns=(found.st_atime_ns, found.st_mtime_ns))


def _link_target(path: Path, source: Path) -> str:
    """The target of a link, which stays right in another folder: relative only within the source."""
    target = os.readlink(path)
    there = os.path.normpath(path.parent / target)
    return target if Path(there).is_relative_to(source) and not os.path.isabs(target) else there


def _copy_bytes(path: Path, copied: Path, progress: Progress) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as reading, copied.open("xb") as writing:
        while chunk := reading.read(CHUNK_BYTES):
            digest.update(chunk)
            writing.write(chunk)
            progress.add(path.name, len(chunk))
        writing.flush()
        os.fchmod(writing.fileno(), stat.S_IMODE(os.fstat(reading.fileno()).st_mode))
        os.fsync(writing.fileno())
        # what is verified must come from the disk
        os.posix_fadvise(writing.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if digests.digest(copied, "sha256") != digest.hexdigest():
        copied.unlink()
        raise IncompleteModel(
            f"{copied} was written wrongly. Check the disk; the models stay where they were."
        )


def _merge(copied: Path, target: Path) -> None:
    """Rename a copy into place; a folder that an interrupted move has left there gets what it lacks."""
    if not (copied.is_dir() and not copied.is_symlink() and target.is_dir()):
        os.replace(copied, target)
        return
    for name in os.listdir(copied):
        _merge(copied / name, target / name)
    copied.rmdir()


def _sync_folders(folder: Path) -> None:
    for path, _, _ in os.walk(folder):
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(number)
        os.close(number)
