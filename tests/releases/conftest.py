"""A bare root of each release, with internet access, shared by the tests of a module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.systemd.machine import Machine
from tests.systemd.root import Unavailable, cached_root

CHECKOUT = Path(__file__).parent.parent.parent
SUITES = os.environ.get("SUITES", "bookworm trixie noble resolute").split()
BARE = ("apt", "sudo", "systemd", "systemd-sysv")
USER, HOME = "reader", "/home/reader"
CERTIFICATES = "/etc/pip-certificates.crt"
PIP_OPTION = re.compile(r"(?:global|:env:)\.(index-url|cert|proxy|trusted-host|default-timeout)='(.*)'")


@dataclass(frozen=True)
class Release:
    """A booted machine with an ordinary user that may use sudo.

    Attributes:
        suite: its name.
        machine: the machine; it shares the host's network.
        environ: what the user's programs need to reach a package index as the host does.
    """

    suite: str
    machine: Machine
    environ: dict[str, str]

    def command(self, script: str) -> tuple[str, ...]:
        """A shell in the user's home folder."""
        settings = [f"{key}={value}" for key, value in self.environ.items()]
        return ("env", f"--chdir={HOME}", f"HOME={HOME}", f"USER={USER}", *settings, "sh", "-euc", script)

    def run(self, script: str, timeout_s: float = 600) -> str:
        """Run a command as the user; return its output."""
        return self.machine.run(*self.command(script), user=USER, timeout_s=timeout_s).stdout


@pytest.fixture(scope="module", params=SUITES)
def release(request: pytest.FixtureRequest) -> Iterator[Release]:
    """A machine of that suite, with this checkout's last commit as a repository to clone."""
    with tempfile.TemporaryDirectory() as home:
        bundle = Path(home, "stepaudiod.bundle")
        subprocess.run(["git", "bundle", "create", "--quiet", bundle, "HEAD"], cwd=CHECKOUT, check=True)
        try:
            root = cached_root(request.param, BARE)
            with Machine.boot(root, writable={Path(home): HOME}, has_internet=True) as machine:
                machine.run("useradd", "--shell=/bin/bash", USER)
                machine.write(f"/etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) NOPASSWD: ALL\n", mode=0o440)
                machine.run("chown", "-R", f"{USER}:", HOME)
                yield Release(request.param, machine, index_settings(machine))
        except Unavailable as error:
            pytest.skip(f"no {request.param} here: {error}")


def index_settings(machine: Machine) -> dict[str, str]:
    """The host's package index as pip's variables; its certificates are copied."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings = {f"PIP_{key.upper().replace('-', '_')}": value for key, value in PIP_OPTION.findall(listed)}
    if "PIP_CERT" in settings:
        machine.write(CERTIFICATES, Path(settings["PIP_CERT"]).read_text())
        settings["PIP_CERT"] = CERTIFICATES
    return settings
