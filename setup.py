"""What setup.cfg can't express: the file with the commit, and an sdist that has the same bits each time."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from stepaudiod.version import COMMIT

COMMIT_FILE = "stepaudiod/commit"


class BuildWithCommit(build_py):
    """Writes the commit into the package. An sdist has its file already; an editable one reads .git."""

    def run(self) -> None:
        super().run()
        if COMMIT and not self.editable_mode and not os.path.exists(COMMIT_FILE):
            with open(os.path.join(self.build_lib, COMMIT_FILE), "w", encoding="ascii") as file:
                file.write(f"{COMMIT}\n")


class ReproducibleSdist(sdist):
    """Writes the commit's line into the tree, and an archive whose bits depend on the commit alone."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        command = ["packaging/version.sh", "--line"]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        self.seconds = int(line.split()[1])
        super().make_release_tree(base_dir, files)
        path = os.path.join(base_dir, COMMIT_FILE)
        if not os.path.exists(path):
            with open(path, "w", encoding="ascii") as file:
                file.write(line)

    def make_archive(self, base_name: str, format: str, *_: object, base_dir: str, **__: object) -> str:
        if format != "gztar":
            raise SystemExit(f"the sdist is a .tar.gz; found --formats={format}")
        path = f"{base_name}.tar.gz"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with (
            open(path, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=self.seconds) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=self._without_the_builder)  # in the order of the names
        return path

    def _without_the_builder(self, member: tarfile.TarInfo) -> tarfile.TarInfo:
        """Neither the time, the user nor the umask of the build."""
        member.mtime, member.uid, member.gid, member.uname, member.gname = self.seconds, 0, 0, "", ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member


setup(cmdclass={"build_py": BuildWithCommit, "sdist": ReproducibleSdist})
