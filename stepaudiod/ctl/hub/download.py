"""Pulls a model: plan, check the free space, download, verify, and put the files into place.

    models/
      .pulling/Step-Audio-EditX/
        parts/…              incomplete downloads, which an interrupted pull resumes
        files/…              complete and verified files
      Step-Audio-EditX/…     appears by one rename, when all its files are verified

The daemon uses any folder of that name whose files have the right size. So files are never downloaded into
the folder itself, where a damaged file of the right size would be used. A marker file "complete" would be
missing in folders that users copy by hand.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stepaudiod.ctl.errors import HubRefused, IncompleteModel, InsufficientSpace, WrongUsage
from stepaudiod.ctl.hub import digests
from stepaudiod.ctl.hub.catalog import PULLING, PublishedModel, Repository
from stepaudiod.ctl.hub.manifest import FileRecord, Manifest, read
from stepaudiod.ctl.hub.progress import Progress, size
from stepaudiod.ctl.hub.sources import Listing, RemoteFile, Source
from stepaudiod.obstacles import WRITE, Needed, explain

GONE = ".gone-"


@dataclass(frozen=True, slots=True)
class Plan:
    """The work for one repository; `missing` files are neither in place nor downloaded yet."""

    repository: Repository
    listing: Listing
    wanted: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Pulled:
    folders: tuple[Path, ...]
    revisions: tuple[str, ...]
    files: int
    size_bytes: int
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class Pull:
    """Downloads one model to the folder of all models; the revision None is the newest."""

    model: PublishedModel
    source: Source
    revision: str | None
    root: Path
    progress: Progress

    def run(self) -> Pulled:
        """Download the model.

        Raises:
            CtlError: the pull failed; downloaded data is kept.
            PermissionError: another user owns local files.
        """
        check_rights(self.root)
        listings = [(repository, self._list(repository)) for repository in self.model.repositories]
        try:
            with locked(self.root, make=True):
                plans = [self._plan(repository, listing) for repository, listing in listings]
                fetched_bytes = self._check_space(plans)
                self._fetch(plans)
                for plan in plans:
                    self._place(plan)
        except PermissionError:
            raise
        except OSError as error:
            raise self._disk_error(error) from None
        return Pulled(
            folders=tuple(self.root / plan.repository.folder for plan in plans),
            revisions=tuple(plan.listing.revision for plan in plans),
            files=sum(len(plan.wanted) for plan in plans),
            size_bytes=sum(file.size_bytes for plan in plans for file in plan.wanted),
            fetched_bytes=fetched_bytes,
        )

    def _list(self, repository: Repository) -> Listing:
        """Get the hub's listing, which must have all needed files."""
        name = repository.id(self.source.name)
        self.progress.show(f"asking {self.source.endpoint} for {name}")
        listing = self.source.list(name, self.revision)
        if missing := repository.missing(file.path for file in listing.files):
            raise HubRefused(
                f"{name} at {self.source.endpoint}, revision {listing.revision}, has no "
                f"{', '.join(missing)}. Try another --revision, or the other hub (--from)."
            )
        return listing

    def _plan(self, repository: Repository, listing: Listing) -> Plan:
        folder = self.root / repository.folder
        if folder.is_symlink():
            raise WrongUsage(
                f"{folder} is a link to {os.readlink(folder)}. Pull to the folder that contains the link's "
                "target: --to."
            )
        chosen = set(repository.wanted(file.path for file in listing.files))
        wanted = tuple(file for file in listing.files if file.path in chosen)
        staged = self._staging(repository) / "files"
        self.progress.start("checking", 0, sum(file.size_bytes for file in wanted))
        self._remove_outdated(staged, {file.path: file for file in wanted})
        missing = tuple(
            file
            for file in wanted
            if not (staged / file.path).exists() and not self._is_current(folder / file.path, file)
        )
        return Plan(repository, listing, wanted, missing)

    def _remove_outdated(self, staged: Path, wanted: dict[str, RemoteFile]) -> None:
        """Remove downloaded files of another revision."""
        for path in [path for path in staged.rglob("*") if path.is_file()]:
            file = wanted.get(str(path.relative_to(staged)))
            if file is None or not self._is_current(path, file):
                path.unlink()

    def _is_current(self, path: Path, file: RemoteFile) -> bool:
        if not path.is_file() or path.stat().st_size != file.size_bytes:
            return False
        return file.digest is None or self._digest(path, file) == file.digest.value

    def _digest(self, path: Path, file: RemoteFile) -> str:
        algorithm = file.digest.algorithm if file.digest else "sha256"
        return digests.digest(path, algorithm, partial(self.progress.add, Path(file.path).name))

    def _check_space(self, plans: list[Plan]) -> int:
        """Require enough free disk space; return the number of bytes to download."""
        needed_bytes = sum(
            file.size_bytes - self.source.partial_bytes(file, self._staging(plan.repository) / "parts")
            for plan in plans
            for file in plan.missing
        )
        free_bytes = shutil.disk_usage(self.root).free
        if needed_bytes > free_bytes:
            raise InsufficientSpace(
                f"{self.model.name} needs {size(needed_bytes)} more in {self.root}, and {size(free_bytes)} "
                "are free. Nothing was downloaded. Free some space, or use another disk: "
                "stepaudioctl models move DIR"
            )
        return needed_bytes

    def _fetch(self, plans: list[Plan]) -> None:
        total_bytes = sum(file.size_bytes for plan in plans for file in plan.missing)
        done_bytes = 0
        for plan in plans:
            parts = self._staging(plan.repository) / "parts"
            for file in plan.missing:
                partial_bytes = self.source.partial_bytes(file, parts)
                self.progress.start("downloading", done_bytes + partial_bytes, total_bytes)
                self._fetch_one(plan, file, parts, done_bytes)
                done_bytes += file.size_bytes

    def _fetch_one(self, plan: Plan, file: RemoteFile, parts: Path, before_bytes: int) -> None:
        name = plan.repository.id(self.source.name)
        path = self.source.fetch(
            name,
            plan.listing.revision,
            file,
            parts,
            lambda received: self.progress.at(Path(file.path).name, before_bytes + received),
        )
        if file.digest is not None:
            self.progress.start("checking", 0, file.size_bytes)
            found = self._digest(path, file)
            if found != file.digest.value:
                path.unlink()
                raise IncompleteModel(
                    f"{file.path} of {name} was received damaged: expected {file.digest.algorithm} "
                    f"{file.digest.value}, found {found}. It was deleted. Run the same command again; if it "
                    "fails again, try another --endpoint, or the other hub (--from)."
                )
        staged = self._staging(plan.repository) / "files" / file.path
        staged.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as complete:
            # a rename can reach the disk before the data does
            os.fsync(complete.fileno())
        os.replace(path, staged)

    def _place(self, plan: Plan) -> None:
        """Move a new folder into place as a whole, and changed files into an existing one."""
        folder, staging = self.root / plan.repository.folder, self._staging(plan.repository)
        staged = staging / "files"
        manifest = Manifest(
            source=self.source.name,
            endpoint=self.source.endpoint,
            repository=plan.repository.id(self.source.name),
            revision=plan.listing.revision,
            files={file.path: self._record(file, staged, folder) for file in plan.wanted},
        )
        if folder.exists():
            changed = sorted(path for path in staged.rglob("*") if path.is_file())
            for name in plan.repository.derived if changed else ():
                discard(self.root / name)
            # first, because a loader may load every file of a kind as a part of the model
            _remove_obsolete(plan.repository, folder, manifest)
            for path in changed:
                target = folder / path.relative_to(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            manifest.write(folder)
        else:
            manifest.write(staged)
            os.rename(staged, folder)
        if staging.exists():
            shutil.rmtree(staging)

    def _record(self, file: RemoteFile, staged: Path, folder: Path) -> FileRecord:
        """The manifest's entry of a file, with a SHA-256 digest even if the hub has another one."""
        path = staged / file.path if (staged / file.path).exists() else folder / file.path
        known = file.digest is not None and file.digest.algorithm == "sha256"
        sha256 = file.digest.value if known and file.digest else digests.digest(path, "sha256")
        return FileRecord(path.stat().st_size, sha256)

    def _disk_error(self, error: OSError) -> InsufficientSpace | IncompleteModel:
        message = f"{error.filename or self.root} could not be written: {error.strerror or error}."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return InsufficientSpace(
                f"{message} The downloaded part is kept: free some space, then run the same command again."
            )
        return IncompleteModel(message + explain(Needed(self.root, WRITE, self.root, "data")))

    def _staging(self, repository: Repository) -> Path:
        return self.root / PULLING / repository.folder


def _remove_obsolete(repository: Repository, folder: Path, current: Manifest) -> None:
    """Remove files that only an earlier revision had; files from other sources stay."""
    with suppress(IncompleteModel):
        previous = read(folder)
        for name in repository.wanted(previous.files) if previous else ():
            if name not in current.files:
                (folder / name).unlink(missing_ok=True)


@contextmanager
def locked(root: Path, *, make: bool = False) -> Iterator[None]:
    """Lock the folder of all models; `WrongUsage` if another pull or removal is running."""
    pulling = root / PULLING
    if pulling.is_symlink():
        raise WrongUsage(f"{pulling} is a link, which stepaudioctl didn't create. Check and delete it.")
    if make:
        pulling.mkdir(parents=True, exist_ok=True)
    if not pulling.exists():
        yield
        return
    number = os.open(pulling, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongUsage(f"Another pull or removal is running in {root}. Wait until it ends.") from None
        for interrupted in (*root.glob(f"{GONE}*"), *pulling.glob(f"{GONE}*")):
            shutil.rmtree(interrupted)
        yield
    finally:
        os.close(number)


def discard(path: Path) -> None:
    """Remove a folder; of a link only the link itself."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        # rename first: the daemon must not see a partly deleted model
        leaving = Path(tempfile.mkdtemp(prefix=GONE, dir=path.parent))
        os.rename(path, leaving / path.name)
        shutil.rmtree(leaving)


def check_rights(root: Path) -> None:
    """Raise PermissionError if the folder can't be written, before the hub is asked."""
    existing = root
    while not os.path.exists(existing):
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))
