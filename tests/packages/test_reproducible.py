"""The packages have the same bits when they are built again elsewhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.packages.conftest import CHECKOUT, DEBS, HOST_SUITE, SUITE


@pytest.mark.usefixtures("repository")
def test_another_folder_makes_the_same_packages(tmp_path: Path) -> None:
    """All are built from scratch, from the same wheels."""
    if SUITE != HOST_SUITE:
        pytest.skip("the packages of other releases are always built in the same folder of a new root")
    copy = tmp_path / "a-longer-path" / "stepaudiod"
    copy.mkdir(parents=True)
    listed = subprocess.run(
        ["packaging/sources-digest.sh", "list"], cwd=CHECKOUT, capture_output=True, text=True
    )
    subprocess.run(["cp", "-a", *listed.stdout.split(), copy], cwd=CHECKOUT, check=True)
    line = subprocess.run(["packaging/version.sh", "--line"], cwd=CHECKOUT, capture_output=True, check=True)
    (copy / "stepaudiod" / "commit").write_bytes(line.stdout)
    (copy / "build").mkdir()
    subprocess.run(["cp", "-a", CHECKOUT / "build" / "wheelhouse", copy / "build"], check=True)
    built = subprocess.run(["packaging/deb.sh"], cwd=copy, capture_output=True, text=True, umask=0o077)
    assert built.returncode == 0, built.stdout + built.stderr
    for deb in sorted((copy / "build" / "deb").glob("*.deb")):
        assert deb.read_bytes() == (DEBS / deb.name).read_bytes(), deb.name
    assert len(os.listdir(copy / "build" / "deb")) > 3
