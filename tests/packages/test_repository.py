"""The repository of `make apt-repo`, without installing from it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packages.repository import SCRIPT

CONTROL = (
    "Package: nothing\nVersion: 1\nArchitecture: all\nMaintainer: us <us@example.org>\nDescription: nothing\n"
)


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    """An empty package that only its owner may read."""
    for tool in ("apt-ftparchive", "dpkg-deb", "gpg"):
        if shutil.which(tool) is None:
            pytest.skip(f"not installed: {tool}")
    (tmp_path / "tree/DEBIAN").mkdir(parents=True)
    (tmp_path / "tree/DEBIAN").chmod(0o755)
    (tmp_path / "tree/DEBIAN/control").write_text(CONTROL)
    path = tmp_path / "nothing_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", tmp_path / "tree", path], check=True, capture_output=True)
    path.chmod(0o600)
    return path


def say(folder: Path, deb: Path) -> str:
    return subprocess.run(
        [SCRIPT, folder, "bookworm", deb], check=True, capture_output=True, text=True
    ).stdout


def test_folders_that_apt_may_not_enter_are_named(deb: Path, tmp_path: Path) -> None:
    """apt reads as the user _apt, which can't enter home folders."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    assert f"{home} " in say(home / "apt", deb).partition("chmod o+x ")[2]
    home.chmod(0o711)
    assert f"{home} " not in say(home / "apt", deb)


def test_every_user_may_read_its_files(deb: Path, tmp_path: Path) -> None:
    say(tmp_path / "apt", deb)
    files = [path for path in (tmp_path / "apt").rglob("*") if path.is_file()]
    assert {"InRelease", "Packages", deb.name} <= {path.name for path in files}
    assert all(path.stat().st_mode & 0o004 for path in files)
