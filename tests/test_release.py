"""The packages' versions sort by the commits' times; a release is a commit and a tag, or nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from stepaudiod import __version__
from tests.test_sdist import ROOT, tracked
from tests.test_version import ENVIRON, git

if not shutil.which("git") or not shutil.which("dpkg"):
    pytest.skip("not installed: git or dpkg", allow_module_level=True)

FILES = ("README.md", "stepaudiod/__init__.py")
CHANGELOG = "# Changelog\n\n## Unreleased: 1.2.3\n\n### Added\n\n- New.\n\n## 0.0.1 - 2020-01-01\n\n- Old.\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with one commit, of the part of this tree that matters here."""
    folder = tmp_path / "clone"
    for name in tracked():
        if name.startswith("packaging/") or name in FILES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "2026-11-27T23:59:59Z")
    return folder


def commit(folder: Path, date: str) -> str:
    """Commit everything at that time; return the version and the first characters of the hash."""
    git(folder, "add", ".")
    command = ["git", "commit", "--quiet", "--allow-empty", "--message=x"]
    subprocess.run(command, cwd=folder, env=ENVIRON | {"GIT_COMMITTER_DATE": date}, check=True)
    return git(folder, "rev-parse", "HEAD")[:7]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=ENVIRON, capture_output=True, text=True, check=False)


def version(folder: Path, *arguments: str) -> str:
    done = run(folder, "packaging/version.sh", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def assert_ascending(*versions: str) -> None:
    for earlier, later in pairwise(versions):
        subprocess.run(["dpkg", "--compare-versions", earlier, "lt", later], check=True)


def test_versions_sort_by_the_time_of_their_commits(clone: Path) -> None:
    first = version(clone)
    morning = commit(clone, "2026-11-28T00:00:09Z"), version(clone)
    evening = commit(clone, "2026-11-28T17:30:12-03:00"), version(clone)
    assert morning[1] == f"{__version__}~git20261128.000009.{morning[0]}"
    assert evening[1] == f"{__version__}~git20261128.203012.{evening[0]}"
    git(clone, "tag", f"v{__version__}")
    released = version(clone)
    assert released == __version__
    (clone / "new").touch()
    changed = version(clone)
    assert changed == f"{__version__}+dirty"
    after = commit(clone, "2026-11-28T23:00:00Z"), version(clone)
    assert after[1] == f"{__version__}+git20261128.230000.{after[0]}"
    (clone / "README.md").write_text("changed")
    assert version(clone) == f"{after[1]}+dirty"
    assert_ascending(first, morning[1], evening[1], released, after[1], f"{after[1]}+dirty", "999~git1")


@pytest.mark.parametrize("suffix", ["~deb12", "~deb13", "~ubuntu24.04", "~ubuntu26.04"])
def test_a_release_upgrades_the_packages_of_development_builds(clone: Path, suffix: str) -> None:
    before = version(clone, "--package", suffix)
    git(clone, "tag", f"v{__version__}")
    released = version(clone, "--package", suffix)
    commit(clone, "2026-11-28T12:00:00Z")
    after = version(clone, "--package", suffix)
    assert all(each.endswith(suffix) for each in (before, released, after))
    assert_ascending(before, released, after)


def test_a_worktree_has_the_version_of_its_commit(clone: Path) -> None:
    first = version(clone)
    commit(clone, "2026-11-28T12:00:00Z")
    git(clone, "worktree", "add", "--quiet", "../tree", "HEAD~1")
    assert version(clone.parent / "tree") == first


def test_without_git_and_without_an_sdist_the_version_is_an_error(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    done = run(clone, "packaging/version.sh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Clone the repository" in done.stderr


def test_the_packages_changelog_has_version_and_time(clone: Path) -> None:
    shutil.copytree(clone / "packaging" / "debian", clone / "debian")
    line = "a" * 40 + " 1796052612 0.1.0~git20261130.153012.aaaaaaa"
    assert run(clone, "packaging/stamp.sh", ".", line).returncode == 0
    shown = run(clone, "dpkg-parsechangelog").stdout
    assert "Version: 0.1.0~git20261130.153012.aaaaaaa\n" in shown
    assert "Timestamp: 1796052612\n" in shown
    assert (clone / "stepaudiod" / "commit").read_text() == f"{line}\n"
    assert {path.lstat().st_mtime for path in (clone / "packaging").iterdir()} == {1796052612}


def test_a_release_is_a_commit_and_a_tag(clone: Path) -> None:
    done = run(clone, "packaging/release.sh", "12.0.3")
    assert done.returncode == 0, done.stderr
    today = datetime.now(UTC).date()
    assert version(clone) == "12.0.3"
    assert git(clone, "tag", "--points-at", "HEAD") == "v12.0.3"
    assert git(clone, "log", "--format=%s", "-1") == "Version 12.0.3"
    assert git(clone, "status", "--porcelain") == ""
    after = (clone / "CHANGELOG.md").read_text()
    assert after == CHANGELOG.replace("## Unreleased: 1.2.3\n", f"## Unreleased\n\n## 12.0.3 - {today}\n")

    again = run(clone, "packaging/release.sh", "12.0.4")
    assert again.returncode == 1
    assert "lists nothing below '## Unreleased'" in again.stderr
    (clone / "CHANGELOG.md").write_text(after.replace("## Unreleased\n", "## Unreleased\n\n- New.\n", 1))
    commit(clone, "2036-01-01T00:00:00Z")
    assert version(clone).startswith("12.0.3+git20360101.000000.")
    for refused, problem in (
        ("12.0.3", "v12.0.3 exists"),
        ("9.9.9", "isn't later"),
        ("12.0.2", "isn't later"),
    ):
        done = run(clone, "packaging/release.sh", refused)
        assert done.returncode == 1
        assert problem in done.stderr
    assert run(clone, "packaging/release.sh", "12.1.0").returncode == 0
    assert_ascending("12.0.3", version(clone))


@pytest.mark.parametrize("name", ["", "1.0", "v1.0.0", "1.0.0rc1", "1.0.0\n2.0.0", "01.0.0", "1.0.0 "])
def test_what_is_no_version_is_refused(clone: Path, name: str) -> None:
    done = run(clone, "packaging/release.sh", name)
    assert done.returncode == 1
    assert "make release VERSION=x.y.z" in done.stderr
    assert git(clone, "status", "--porcelain") == git(clone, "tag") == ""


def test_changes_in_the_tree_are_refused(clone: Path) -> None:
    (clone / "forgotten").touch()
    done = run(clone, "packaging/release.sh", "1.0.0")
    assert done.returncode == 1
    assert "The tree has changes" in done.stderr
    assert git(clone, "tag") == ""


def test_files_are_only_made_of_a_release(clone: Path, tmp_path: Path) -> None:
    done = run(clone, "packaging/release-files.sh", "bookworm", str(tmp_path / "key"))
    assert done.returncode == 1
    assert "and no release" in done.stderr
    assert os.listdir(tmp_path) == ["clone"]
