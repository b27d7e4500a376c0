"""The Makefile installs the packages that are missing, and asks for no rights where none is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parent.parent / "Makefile"
STATES = {
    "here": "install ok installed",
    "removed": "deinstall ok config-files",
    "purged": "deinstall ok not-installed",
    "broken": "install ok half-configured",
}


@pytest.mark.parametrize(
    ("wanted", "is_installed"),
    [
        (("here",), True),
        (("here", "here"), True),
        (("here", "removed"), False),
        (("here", "purged"), False),
        (("broken",), False),
        (("here", "unknown"), False),
    ],
)
def test_a_package_counts_only_while_it_is_installed(
    tmp_path: Path, wanted: tuple[str, ...], is_installed: bool
) -> None:
    (tmp_path / "status").write_text(
        "".join(
            f"Package: {name}\nStatus: {state}\nVersion: 1\nArchitecture: all\n\n"
            for name, state in STATES.items()
        )
    )
    called = tmp_path / "called"
    for program in ("sudo", "apt-get"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
        (tmp_path / program).chmod(0o755)
    (tmp_path / "probe.mk").write_text(
        f"include {MAKEFILE}\nprobe:\n\t$(call install_packages,{' '.join(wanted)})\n"
    )
    environ = os.environ | {"DPKG_ADMINDIR": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["make", "-C", str(MAKEFILE.parent), "-f", str(tmp_path / "probe.mk"), "probe"]
    subprocess.run(command, env=environ, check=True, capture_output=True)
    assert called.exists() != is_installed
    if not is_installed:
        assert " ".join(wanted) in called.read_text()
