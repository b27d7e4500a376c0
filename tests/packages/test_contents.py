"""The package of the daemon has the documents, in folders that keep their links whole, and its commit."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.packages.conftest import CHECKOUT, DEBS
from tests.test_documents import DOCUMENTS

VERSION = CHECKOUT / "packaging" / "version.sh"


@pytest.mark.slow
@pytest.mark.usefixtures("repository")
def test_the_daemons_package_has_the_documents() -> None:
    (deb,) = DEBS.glob("stepaudiod_*.deb")
    done = subprocess.run(["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True)
    shipped = re.findall(r"\./usr/share/doc/stepaudiod/(\S+\.md)$", done.stdout, re.M)
    assert sorted(shipped) == sorted(set(DOCUMENTS) - {"CONTRIBUTING.md"})


@pytest.mark.slow
@pytest.mark.usefixtures("repository")
def test_the_daemons_package_is_of_this_commit() -> None:
    """Its version and its file with the commit."""
    line = subprocess.run([VERSION, "--line"], capture_output=True, text=True, check=True).stdout
    (deb,) = DEBS.glob("stepaudiod_*.deb")
    assert deb.name.startswith((f"stepaudiod_{line.split()[2]}~", f"stepaudiod_{line.split()[2]}+~"))
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True).stdout
    command = ["tar", "--extract", "--to-stdout", "./usr/lib/stepaudiod/stepaudiod/commit"]
    assert subprocess.run(command, input=files, capture_output=True, check=True).stdout.decode() == line


@pytest.mark.slow
@pytest.mark.usefixtures("repository")
def test_the_voices_are_in_their_package_alone() -> None:
    """dpkg refuses a file of another package. The runtimes replace each other."""
    (daemon,), (voices,) = DEBS.glob("stepaudiod_*.deb"), DEBS.glob("stepaudiod-voices_*.deb")
    files = [
        set(re.findall(r"^-.* (\./\S+)$", subprocess.check_output(["dpkg-deb", "-c", deb], text=True), re.M))
        for deb in (daemon, voices)
    ]
    assert files[1]
    assert files[0] & files[1] == set()
