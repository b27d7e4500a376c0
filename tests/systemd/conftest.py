"""One machine for all tests of this folder, with the units and this checkout's daemon."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import Machine
from tests.systemd.root import Unavailable, cached_root

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
UNITS = CHECKOUT / "packaging" / "systemd"

# Folders that the sandbox hides or replaces; a checkout in one of them has to be shown to the service again.
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("systemd")


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A booted Debian; the tests are skipped if it can't be booted, but not in CI."""
    try:
        root = cached_root()
        folders = daemon_folders()
        with Machine.boot(root, read_only=folders) as booted:
            booted.install_units(UNITS)
            install_daemon(booted, folders)
            yield booted
    except Unavailable as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"no machine for the tests, and in continuous integration there must be one: {error}")
        pytest.skip(f"no machine for the tests: {error}")


def daemon_folders() -> list[Path]:
    """The code, and its environment if that is elsewhere."""
    environment = Path(sys.prefix).resolve()
    return [CHECKOUT] if environment.is_relative_to(CHECKOUT) else [CHECKOUT, environment]


def install_daemon(machine: Machine, folders: list[Path]) -> None:
    """Link this checkout's `stepaudiod` to where the units expect it."""
    machine.path("/usr/bin/stepaudiod").symlink_to(Path(sys.prefix).resolve() / "bin/stepaudiod")
    # The environment may belong to another checkout.
    text = f"[Service]\nEnvironment=PYTHONPATH={CHECKOUT}\n"
    hidden = [str(folder) for folder in folders if any(folder.is_relative_to(place) for place in HIDDEN)]
    if hidden:
        text += f"ProtectHome=tmpfs\nBindReadOnlyPaths={' '.join(hidden)}\n"
    for service in ("stepaudiod.service", "stepaudiod@.service"):
        machine.write(f"/etc/systemd/system/{service}.d/checkout.conf", text)
    machine.systemctl("daemon-reload")
