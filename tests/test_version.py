"""The commit is told by programs, answers and doctor; it is read from a checkout, a worktree or a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stepaudiod import __version__
from stepaudiod.version import read_commit
from tests.activation import DaemonProcess

A, B = "a" * 40, "b" * 40
ENVIRON = os.environ | {
    **{f"GIT_{role}_{field}": "x" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, env=ENVIRON, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder: Path) -> str:
    """A repository with a commit, whose hash is returned."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "stepaudiod").mkdir()
    (folder / "stepaudiod" / "code.py").touch()
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=x")
    return git(folder, "rev-parse", "HEAD")


def commit(folder: Path) -> str:
    return read_commit(str(folder / "stepaudiod"))


def test_a_checkout_is_read_in_every_state_of_git(tmp_path: Path) -> None:
    main = tmp_path / "main"
    first = repository(main)
    assert commit(main) == first
    git(main, "pack-refs", "--all")
    assert commit(main) == first
    git(main, "commit", "--quiet", "--message=x", "--allow-empty")
    second = git(main, "rev-parse", "HEAD")
    assert commit(main) == second != first
    git(main, "worktree", "add", "--quiet", "-b", "feature/one", "../tree", first)
    assert commit(tmp_path / "tree") == first
    git(main, "pack-refs", "--all")
    assert (commit(main), commit(tmp_path / "tree")) == (second, first)
    git(main, "checkout", "--quiet", first)
    assert commit(main) == first
    git(main, "symbolic-ref", "refs/heads/alias", "refs/heads/main")
    git(main, "symbolic-ref", "HEAD", "refs/heads/alias")
    assert commit(main) == second


def test_what_was_built_has_it_in_a_file_before_any_repository_around_it(tmp_path: Path) -> None:
    repository(tmp_path / "one")
    file = tmp_path / "one" / "stepaudiod" / "commit"
    for text, told in (
        (f"{A}\n", A),
        (f"{A} 1796052612 0.1.0~git20261128.153012.aaaaaaa\n", A),
        (f"{B}-dirty 1796052612 0.1.0+dirty\n", f"{B}-dirty"),
    ):
        file.write_text(text)
        assert commit(tmp_path / "one") == told


@pytest.mark.parametrize(
    ("files"),
    [
        {},
        {".git/HEAD": "ref: refs/heads/none\n"},
        {".git/HEAD": "ref: refs/heads/a\n", ".git/refs/heads/a": "ref: refs/heads/a\n"},
        {".git/HEAD": "\udcff\udcfe"},
        {".git/HEAD": "<script>"},
        {".git": "gitdir: /nowhere\n"},
        {".git": "x"},
        {".git": ""},
        {"stepaudiod/commit": "../../etc\n"},
        {"stepaudiod": "a file"},
        {"stepaudiod/commit/folder": ""},
    ],
    ids=lambda files: ", ".join(files) or "nothing",
)
def test_where_it_is_unknown_nothing_is_told(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    assert commit(tmp_path) == ""


def test_all_tell_the_same(daemon: DaemonProcess) -> None:
    """The programs, the health check, the status, the metrics and doctor."""
    with daemon.client() as client:
        health = client.get("/healthz")
        head = client.head("/healthz")
        status = client.get("/api/v1/models/status").json()["daemon"]
        metrics = client.get("/metrics").text
    told = health.headers["X-StepAudio-Commit"]
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", told)
    assert health.headers["X-StepAudio-Version"] == status["version"] == __version__
    assert head.headers["X-StepAudio-Commit"] == status["commit"] == told
    assert f'stepaudiod_build_info{{commit="{told}",version="{__version__}"}} 1.0' in metrics
    for module in ("stepaudiod", "stepaudiod.ctl"):
        command = [sys.executable, "-m", module, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.endswith(f" {__version__} (commit {told})\n")
    doctor = [sys.executable, "-m", "stepaudiod.ctl", "doctor", "--json", f"--socket={daemon.unix_path}"]
    report = json.loads(subprocess.run(doctor, capture_output=True, text=True, check=False).stdout)
    assert report["commit"] == told
    assert report["findings"][0]["text"] == f"{__version__} (commit {told})"
