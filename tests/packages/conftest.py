"""The packages, a repository of them, and a Debian to install them in; skipped where that is impossible."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.packages.repository import Repository
from tests.systemd.machine import Machine
from tests.systemd.root import SUITE as ROOT_SUITE
from tests.systemd.root import Unavailable, cached_root

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
HOST_SUITE = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
SUITE = os.environ.get("SUITE") or ROOT_SUITE
"""The release whose packages are built and tested."""
DEBS = CHECKOUT / "build" / "deb" / ("" if SUITE == HOST_SUITE else SUITE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and "repository" in getattr(item, "fixturenames", ()):
            item.add_marker("systemd")
            item.add_marker("slow")


def built_packages() -> list[Path]:
    """Build the packages of this checkout for the release."""
    make = ["make", "deb", *([] if SUITE == HOST_SUITE else [f"SUITE={SUITE}"])]
    done = subprocess.run(make, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(DEBS.glob("*.deb"))


@pytest.fixture(scope="session")
def debian() -> Path:
    """The folder of a bootable Debian or Ubuntu."""
    try:
        return cached_root(SUITE)
    except Unavailable as error:
        _give_up(error)


@pytest.fixture(scope="session")
def repository(debian: Path) -> Iterator[Repository]:
    """The packages of this checkout, and the release's packages that they need, as apt reads them."""
    debs = built_packages()
    folder = CHECKOUT / "build" / "tests-repository"
    for each in (folder, folder.with_name(f"{folder.name}.key")):
        shutil.rmtree(each, ignore_errors=True)
    yield Repository.of(debs, folder, SUITE, debian)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def machine(debian: Path, repository: Repository) -> Iterator[Machine]:
    """A Debian or Ubuntu without a network, whose apt knows only that repository."""
    try:
        with Machine.boot(debian, read_only=[repository.folder]) as booted:
            booted.remove("/etc/apt/sources.list")
            booted.remove("/etc/apt/sources.list.d")
            booted.write("/etc/apt/sources.list.d/stepaudiod.sources", repository.sources)
            booted.run("apt-get", "update")
            yield booted
    except Unavailable as error:
        _give_up(error)


def _give_up(error: Unavailable) -> NoReturn:
    """Skip, but never in continuous integration."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"no machine for the tests, and in continuous integration there must be one: {error}")
    pytest.skip(f"no machine for the tests: {error}")
