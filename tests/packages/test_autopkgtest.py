"""The packages' autopkgtests, in a Debian without a network."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.packages.conftest import CHECKOUT
from tests.packages.repository import Repository
from tests.systemd.machine import Machine

DEBIAN = CHECKOUT / "packaging" / "debian"
SOURCE = "/srv/source"
SUMMARY = "/run/summary"


def test_autopkgtest_passes(machine: Machine, repository: Repository, debian: Path, tmp_path: Path) -> None:
    repository.add_debian(debian, "autopkgtest")
    machine.run("apt-get", "update")
    machine.run("apt-get", "install", "--yes", "--no-install-recommends", "autopkgtest", timeout_s=240)
    source = shutil.copytree(DEBIAN, tmp_path / "debian")
    (source / "files").touch()  # by this autopkgtest knows a tree that has been built
    machine.copy_in(source, f"{SOURCE}/debian")

    done = machine.run(
        *("autopkgtest", f"--summary-file={SUMMARY}", "--no-built-binaries", SOURCE, "--", "null"),
        check=False,
        timeout_s=540,
    )

    summary = machine.path(SUMMARY).read_text()
    print(summary)
    if "requires testbed capability" in summary:
        pytest.skip("this release's autopkgtest runs such tests in a container only")
    if done.returncode != 0:
        pytest.fail(f"status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-12000:]}")
    names = re.search(r"(?m)^Tests: (.*)$", (DEBIAN / "tests/control").read_text())
    assert names is not None
    assert dict(line.split() for line in summary.splitlines()) == dict.fromkeys(names[1].split(", "), "PASS")
