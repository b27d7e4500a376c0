"""Tells what a package contains, from the Python packages in a folder of its staging folder.

inventory.py copyright FOLDER TARGET     print the file copyright; TARGET is where FOLDER will be
inventory.py sbom FOLDER PACKAGE.deb     write PACKAGE.cdx.json, the bill of materials; $WHEELS has the files
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bundled import read_folder
from copyright import copyright_of
from sbom import sbom_of


def main(what: str, folder: str, target: str) -> None:
    packages = read_folder(Path(folder))
    if what == "copyright":
        sys.stdout.write(copyright_of(packages, target))
    elif what == "sbom":
        command = ["dpkg-deb", "--show", "--showformat=${Package} ${Version} ${Architecture}", target]
        name, version, arch = subprocess.check_output(command, text=True).split()
        bill = sbom_of(packages, name, version, arch, Path(os.environ["WHEELS"]))
        Path(target).with_suffix(".cdx.json").write_text(bill)
    else:
        raise SystemExit(f"{what} is neither copyright nor sbom.")


if __name__ == "__main__":
    main(*sys.argv[1:])
