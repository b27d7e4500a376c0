"""The sdist is complete and has the same bits wherever it is built; so is what is installed from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepaudiod import __version__

ROOT = Path(__file__).parent.parent
NAME = f"stepaudiod-{__version__}"
COMMIT = "0123456789abcdef" * 2 + "01234567"
LINE = f"{COMMIT} 1796052612 {__version__}~git20261128.153012.0123456\n"
EGG_INFO, COMMIT_FILE = "stepaudiod.egg-info", "stepaudiod/commit"


def tracked() -> list[str]:
    """The files of the repository; in an unpacked sdist, those that it came with."""
    if (ROOT / ".git").exists():
        command = [
            "git",
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return [name for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]
    listed = (ROOT / EGG_INFO / "SOURCES.txt").read_text()
    return [name for name in listed.splitlines() if not name.startswith(EGG_INFO) and name != COMMIT_FILE]


def build(folder: Path, umask: int) -> Path:
    """Copy the tree there, and build the sdist of it."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    (folder / COMMIT_FILE).write_text(LINE)
    command = [sys.executable, "setup.py", "--quiet", "sdist"]
    subprocess.run(command, cwd=folder, check=True, umask=umask)
    return folder / "dist" / f"{NAME}.tar.gz"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tree"), umask=0o022)


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "--extract", f"--file={sdist}", f"--directory={folder}"], check=True)
    return folder / NAME


def test_it_has_every_file_of_the_repository_and_the_commit(unpacked: Path) -> None:
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if not path.is_dir()}
    own = {name for name in found if name.startswith(EGG_INFO)} | {"PKG-INFO", "setup.cfg", COMMIT_FILE}
    assert found - own == set(tracked()) - own
    for name in found - own:
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes(), name
        assert os.access(unpacked / name, os.X_OK) == os.access(ROOT / name, os.X_OK), name
    assert (unpacked / COMMIT_FILE).read_text() == LINE


def test_another_folder_user_and_time_make_the_same_bits(sdist: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "a longer path", umask=0o077).read_bytes() == sdist.read_bytes()


def test_what_is_installed_from_it_has_every_file_and_knows_its_commit(sdist: Path, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, f"--target={tmp_path / 'site'}", sdist], check=True, capture_output=True)
    package = tmp_path / "site" / "stepaudiod"
    installed = {f"stepaudiod/{path.relative_to(package)}" for path in package.rglob("*")}
    assert {name for name in tracked() if name.startswith("stepaudiod/")} <= installed
    command = [sys.executable, "-m", "stepaudiod", "--version"]
    environ = os.environ | {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, check=True, capture_output=True, text=True)
    assert done.stdout == f"stepaudiod {__version__} (commit {COMMIT})\n"


def test_an_unpacked_one_tells_the_version_of_its_packages(unpacked: Path) -> None:
    told = subprocess.run([unpacked / "packaging/version.sh"], check=True, capture_output=True, text=True)
    assert told.stdout == f"{LINE.split()[2]}\n"
