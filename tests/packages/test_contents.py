"""The package of the daemon has the documents, in folders that keep their links whole."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.packages.conftest import DEBS
from tests.test_documents import DOCUMENTS


@pytest.mark.slow
@pytest.mark.usefixtures("repository")
def test_the_daemons_package_has_the_documents() -> None:
    (deb,) = DEBS.glob("stepaudiod_*.deb")
    done = subprocess.run(["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True)
    shipped = re.findall(r"\./usr/share/doc/stepaudiod/(\S+\.md)$", done.stdout, re.M)
    assert sorted(shipped) == sorted(set(DOCUMENTS) - {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"})
