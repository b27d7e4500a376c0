"""A folder of packages for apt. Knows nothing of their contents, except how to make a later version."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Repository:
    """A trivial repository: packages, and an index of them.

    Attributes:
        folder: where both are.
    """

    folder: Path

    @classmethod
    def of(cls, debs: list[Path], folder: Path, debian: Path) -> Repository:
        """Put these packages there, and those of Debian's that they need and `debian` lacks."""
        folder.mkdir(parents=True)
        for deb in debs:
            os.link(deb, folder / deb.name)
        for name in sorted(_needed(debs) - _installed(debian)):
            subprocess.run(["apt-get", "download", "-qq", name], cwd=folder, check=True, capture_output=True)
        repository = cls(folder)
        repository.index()
        return repository

    def index(self) -> None:
        """Tell apt of everything that is in the folder now."""
        scan = ["dpkg-scanpackages", "--multiversion", "."]
        done = subprocess.run(scan, cwd=self.folder, check=True, capture_output=True, text=True)
        (self.folder / "Packages").write_text(done.stdout)

    def version(self, package: str) -> str:
        """The first version of the package."""
        return min(self._versions(package))

    def add_later(self, package: str, edits: dict[str, tuple[str, str]] | None = None) -> str:
        """Make a later version, with pieces of text files replaced; returns the version."""
        deb = next(self.folder.glob(f"{package}_{self.version(package)}_*.deb"))
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
            command = [
                "dpkg-deb",
                "--root-owner-group",
                "-Zzstd",
                "-z1",
                "--build",
                str(tree),
                str(self.folder),
            ]
            subprocess.run(command, check=True, capture_output=True)
        self.index()
        return later

    def _versions(self, package: str) -> list[str]:
        return [deb.name.split("_")[1] for deb in self.folder.glob(f"{package}_*.deb")]


def _needed(debs: list[Path]) -> set[str]:
    """The names that these packages depend on, of alternatives the first; not each other's."""
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
