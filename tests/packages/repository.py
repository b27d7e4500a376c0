"""The signed repository of `make apt-repo`, with later versions of packages."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.systemd.machine import Machine

SCRIPT = Path(__file__).parent.parent.parent / "packaging" / "apt-repo.sh"


@dataclass(frozen=True)
class Repository:
    """Packages, a signed index of them, and its key.

    Attributes:
        folder: where all of it is.
        suite: the release that the packages are for.
    """

    folder: Path
    suite: str

    @property
    def pool(self) -> Path:
        return self.folder / "pool" / self.suite

    @property
    def signed(self) -> Path:
        """The index with its signature."""
        return self.folder / "dists" / self.suite / "InRelease"

    @property
    def sources(self) -> str:
        """The apt configuration."""
        return (self.folder / f"stepaudiod-{self.suite}.sources").read_text()

    @classmethod
    def of(cls, debs: list[Path], folder: Path, suite: str, debian: Path) -> Repository:
        """Make a repository of these packages, and of Debian's dependencies that `debian` lacks."""
        repository = cls(folder, suite)
        repository.pool.mkdir(parents=True)
        repository.add_debian(debian, *sorted(_needed(debs) - _installed(debian)))
        repository.index(*debs)
        return repository

    def index(self, *debs: Path) -> None:
        """Add these packages, and update the index."""
        done = subprocess.run(
            [SCRIPT, self.folder, self.suite, *debs], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def add_debian(self, debian: Path, *packages: str) -> None:
        """Add these packages of the release with their dependencies that `debian` lacks."""
        folder = Path("/srv/packages")
        (self.pool / "partial").mkdir(exist_ok=True)
        with Machine.boot(debian, writable={self.pool: str(folder)}, has_internet=True) as machine:
            machine.run("apt-get", "update", "-qq", timeout_s=300)
            machine.run(
                *("apt-get", "install", "--yes", "--download-only", "--no-install-recommends", "-qq"),
                *("-o", f"Dir::Cache::archives={folder}", *packages),
                timeout_s=600,
            )
        self.index()

    def version(self, package: str) -> str:
        """The first version of the package."""
        return min(self._versions(package))

    def add_later(
        self, package: str, edits: dict[str, tuple[str, str]] | None = None, is_broken: bool = False
    ) -> str:
        """Make a later version, with parts of text files replaced; returns the version.

        Args:
            package: its name.
            edits: what stands in a file, and what shall stand there instead.
            is_broken: it can't be unpacked, as on a full disk.
        """
        deb = next(self.pool.glob(f"{package}_{self.version(package)}_*.deb"))
        later = f"{self.version(package)}+later{len(self._versions(package))}"
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as name:
            tree = Path(name, "tree")
            subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(tree)], check=True)
            control = tree / "DEBIAN" / "control"
            control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {later}", control.read_text()))
            for path, (old, new) in (edits or {}).items():
                file = tree / path
                text = file.read_text()
                assert old in text, f"{path} has no {old!r}"
                file.write_text(text.replace(old, new))
            if is_broken:
                (tree / "DEBIAN/preinst").write_text("#!/bin/sh\nexit 1\n")
                (tree / "DEBIAN/preinst").chmod(0o755)
            command = [
                "dpkg-deb",
                "--root-owner-group",
                "-Zzstd",
                "-z1",
                "--build",
                str(tree),
                str(self.pool),
            ]
            subprocess.run(command, check=True, capture_output=True)
        self.index()
        return later

    def remove(self, package: str, version: str) -> None:
        """Remove a version."""
        next(self.pool.glob(f"{package}_{version}_*.deb")).unlink()
        self.index()

    def _versions(self, package: str) -> list[str]:
        return [deb.name.split("_")[1] for deb in self.pool.glob(f"{package}_*.deb")]


def _needed(debs: list[Path]) -> set[str]:
    """The names of the dependencies of these packages, the first of alternatives; without each other."""
    ours, needed = set(), set()
    for deb in debs:
        show = ["dpkg-deb", "--show", "--showformat=${Package}|${Depends}", str(deb)]
        name, _, depends = subprocess.run(show, check=True, capture_output=True, text=True).stdout.partition(
            "|"
        )
        ours.add(name)
        needed |= {re.split(r"[ :(|]", each.strip())[0] for each in depends.split(",") if each.strip()}
    return needed - ours


def _installed(debian: Path) -> set[str]:
    status = (debian / "var/lib/dpkg/status").read_text()
    return set(re.findall(r"(?m)^Package: (.*)$", status))
