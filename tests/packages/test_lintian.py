"""lintian reports nothing, except for the explained overrides."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.packages.conftest import DEBS

PACKAGES = ("stepaudiod", "stepaudiod-voices", *(f"stepaudiod-runtime-{kind}" for kind in ("lite", "cpu")))


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("package", PACKAGES)
def test_lintian_finds_no_error_and_no_warning(package: str) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("not installed: lintian")
    debs = list(DEBS.glob(f"{package}_*.deb"))
    if not debs:
        pytest.skip(f"{package} has not been built")

    done = subprocess.run(
        ["lintian", "--allow-root", "--no-cfg", "--fail-on=error,warning", *debs],
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
