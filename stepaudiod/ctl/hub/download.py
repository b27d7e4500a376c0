"""One pull: plan, look for room, fetch, check, and only then put into place. Knows no hub's protocol.

    models/
      .pulling/Step-Audio-EditX/
        parts/…              what comes in; an interrupted pull goes on from it
        files/…              what is whole and right
      Step-Audio-EditX/…     appears by one rename, when all its files are right

The daemon takes any folder of that name whose files look whole, and it looks quickly. So nothing is ever
fetched into the folder itself: a file that has all its bytes and the wrong ones would be taken. A marker that
says "complete" would do for pulled folders, but not for those that people copy here by hand, which have none.
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

GONE = ".gone-"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for one repository.

    Attributes:
        repository: which.
        listing: what the hub has.
        wanted: the files that belong here.
        missing: those that are neither in place nor fetched yet.
    """

    repository: Repository
    listing: Listing
    wanted: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull has done."""

    folders: tuple[Path, ...]
    revisions: tuple[str, ...]
    files: int
    size_bytes: int
    fetched_bytes: int


class Pull:
    """Brings one model into the folder of all models.

    Args:
        model: which.
        source: where from.
        revision: of every repository; None is the newest.
        root: the folder of all models.
        progress: is told.
    """

    def __init__(
        self, model: PublishedModel, source: Source, revision: str | None, root: Path, progress: Progress
    ) -> None:
        self._model = model
        self._source = source
        self._revision = revision
        self._root = root
        self._progress = progress

    def run(self) -> Pulled:
        """Do it.

        Raises:
            CtlError: says what went wrong; what has come is kept.
            PermissionError: files here belong to somebody else.
        """
        check_rights(self._root)
        listings = [(repository, self._list(repository)) for repository in self._model.repositories]
        try:
            with locked(self._root, make=True):
                plans = [self._plan(repository, listing) for repository, listing in listings]
                fetched_bytes = self._check_room(plans)
                self._fetch(plans)
                for plan in plans:
                    self._place(plan)
        except PermissionError:
            raise
        except OSError as error:
            raise self._disk_error(error) from None
        return Pulled(
            folders=tuple(self._root / plan.repository.folder for plan in plans),
            revisions=tuple(plan.listing.revision for plan in plans),
            files=sum(len(plan.wanted) for plan in plans),
            size_bytes=sum(file.size_bytes for plan in plans for file in plan.wanted),
            fetched_bytes=fetched_bytes,
        )

    def _list(self, repository: Repository) -> Listing:
        """What the hub has; it must be what the model needs."""
        name = repository.id(self._source.name)
        self._progress.say(f"asking {self._source.endpoint} for {name}")
        listing = self._source.list(name, self._revision)
        if missing := repository.missing(file.path for file in listing.files):
            raise HubRefused(
                f"{name} at {self._source.endpoint}, revision {listing.revision}, has no "
                f"{', '.join(missing)}. Pull another --revision, or from the other hub (--from)."
            )
        return listing

    def _plan(self, repository: Repository, listing: Listing) -> Plan:
        """Hold what is here against the listing."""
        folder = self._root / repository.folder
        if folder.is_symlink():
            raise WrongUsage(
                f"{folder} is a link to {os.readlink(folder)}. Pull into that place: --to names the folder "
                "that it is in."
            )
        chosen = set(repository.wanted(file.path for file in listing.files))
        wanted = tuple(file for file in listing.files if file.path in chosen)
        staged = self._staging(repository) / "files"
        self._progress.start("checking", 0, sum(file.size_bytes for file in wanted))
        self._forget_others(staged, {file.path: file for file in wanted})
        missing = tuple(
            file
            for file in wanted
            if not (staged / file.path).exists() and not self._is_right(folder / file.path, file)
        )
        return Plan(repository, listing, wanted, missing)

    def _forget_others(self, staged: Path, wanted: dict[str, RemoteFile]) -> None:
        """An earlier pull may have been of another revision."""
        for path in [path for path in staged.rglob("*") if path.is_file()]:
            file = wanted.get(str(path.relative_to(staged)))
            if file is None or not self._is_right(path, file):
                path.unlink()

    def _is_right(self, path: Path, file: RemoteFile) -> bool:
        """Whether the file is here as the hub has it."""
        if not path.is_file() or path.stat().st_size != file.size_bytes:
            return False
        return file.digest is None or self._digest(path, file) == file.digest.value

    def _digest(self, path: Path, file: RemoteFile) -> str:
        """Read it, and show how far the reading is."""
        algorithm = file.digest.algorithm if file.digest else "sha256"
        return digests.digest(path, algorithm, partial(self._progress.add, Path(file.path).name))

    def _check_room(self, plans: list[Plan]) -> int:
        """Look for room before anything is fetched; returns how much there is to fetch."""
        needed_bytes = sum(
            file.size_bytes - self._source.partial_bytes(file, self._staging(plan.repository) / "parts")
            for plan in plans
            for file in plan.missing
        )
        free_bytes = shutil.disk_usage(self._root).free
        if needed_bytes > free_bytes:
            raise InsufficientSpace(
                f"{self._model.name} needs {size(needed_bytes)} more in {self._root}, and {size(free_bytes)} "
                "are free. Nothing was fetched. Make room, or choose another disk: --to, or data_dir in the "
                "configuration."
            )
        return needed_bytes

    def _fetch(self, plans: list[Plan]) -> None:
        """Fetch what is missing."""
        total_bytes = sum(file.size_bytes for plan in plans for file in plan.missing)
        done_bytes = 0
        for plan in plans:
            parts = self._staging(plan.repository) / "parts"
            for file in plan.missing:
                here_bytes = self._source.partial_bytes(file, parts)
                self._progress.start("fetching", done_bytes + here_bytes, total_bytes)
                self._fetch_one(plan, file, parts, done_bytes)
                done_bytes += file.size_bytes

    def _fetch_one(self, plan: Plan, file: RemoteFile, parts: Path, before_bytes: int) -> None:
        """Fetch one file, and keep it if it is right."""
        name = plan.repository.id(self._source.name)
        path = self._source.fetch(
            name,
            plan.listing.revision,
            file,
            parts,
            lambda received: self._progress.at(Path(file.path).name, before_bytes + received),
        )
        if file.digest is not None:
            self._progress.start("checking", 0, file.size_bytes)
            found = self._digest(path, file)
            if found != file.digest.value:
                path.unlink()
                raise IncompleteModel(
                    f"{file.path} of {name} came wrong: expected {file.digest.algorithm} "
                    f"{file.digest.value}, found {found}. It was thrown away. Run the same command again; if "
                    "it stays so, take another --endpoint, or the other hub (--from)."
                )
        staged = self._staging(plan.repository) / "files" / file.path
        staged.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as whole:
            # a rename can reach the disk before the bytes do
            os.fsync(whole.fileno())
        os.replace(path, staged)

    def _place(self, plan: Plan) -> None:
        """Make the folder visible: as a whole where it is new, file by file where some are right already."""
        folder, staging = self._root / plan.repository.folder, self._staging(plan.repository)
        staged = staging / "files"
        manifest = Manifest(
            source=self._source.name,
            endpoint=self._source.endpoint,
            repository=plan.repository.id(self._source.name),
            revision=plan.listing.revision,
            files={file.path: self._record(file, staged, folder) for file in plan.wanted},
        )
        if folder.exists():
            changed = sorted(path for path in staged.rglob("*") if path.is_file())
            for name in plan.repository.derived if changed else ():
                discard(self._root / name)
            # first, because a loader may take every file of a kind for a part of the model
            _remove_former(plan.repository, folder, manifest)
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
        """A file's line of the manifest: every digest there is SHA-256, whatever the hub told."""
        path = staged / file.path if (staged / file.path).exists() else folder / file.path
        known = file.digest is not None and file.digest.algorithm == "sha256"
        sha256 = file.digest.value if known and file.digest else digests.digest(path, "sha256")
        return FileRecord(path.stat().st_size, sha256)

    def _disk_error(self, error: OSError) -> InsufficientSpace | IncompleteModel:
        """What the system said about the disk."""
        said = f"{error.filename or self._root} could not be written: {error.strerror or error}."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return InsufficientSpace(
                f"{said} What has come is kept: make room, and the same command goes on from there."
            )
        return IncompleteModel(said)

    def _staging(self, repository: Repository) -> Path:
        """Where a repository's files come together."""
        return self._root / PULLING / repository.folder


def _remove_former(repository: Repository, folder: Path, present: Manifest) -> None:
    """Remove what an earlier revision had and this one hasn't; other people's files stay."""
    with suppress(IncompleteModel):
        former = read(folder)
        for name in repository.wanted(former.files) if former else ():
            if name not in present.files:
                (folder / name).unlink(missing_ok=True)


@contextmanager
def locked(root: Path, *, make: bool = False) -> Iterator[None]:
    """Keep other pulls and removals out of the folder of all models.

    Raises:
        WrongUsage: one is at work.
    """
    pulling = root / PULLING
    if pulling.is_symlink():
        raise WrongUsage(f"{pulling} is a link, and not of our making. Look at it, then delete it.")
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
            raise WrongUsage(f"Another pull or removal is at work in {root}. Let it end first.") from None
        for left in (*root.glob(f"{GONE}*"), *pulling.glob(f"{GONE}*")):
            # a removal that was interrupted
            shutil.rmtree(left)
        yield
    finally:
        os.close(number)


def discard(path: Path) -> None:
    """Remove a folder; a link goes, what it points to stays."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        # out of sight at once: half of a model must not be taken for one
        leaving = Path(tempfile.mkdtemp(prefix=GONE, dir=path.parent))
        os.rename(path, leaving / path.name)
        shutil.rmtree(leaving)


def check_rights(root: Path) -> None:
    """Whether anything can be written there; said before the hub is asked."""
    existing = root
    while not os.path.exists(existing):
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))
