"""The first connection after a reboot: `make deb`, then `python -m tests.bench.rebooted [BOOTS]`, as root.

The packages lie on a disk whose pages the kernel has forgotten, as after a real reboot; then the same with
all of it in memory. What the machine reads while it boots is there in both cases.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.installed import first_byte
from tests.bench.measure import machine, request, spread
from tests.packages.conftest import DEBS, SUITE
from tests.packages.repository import Repository
from tests.systemd.machine import Machine
from tests.systemd.root import cached_root

PACKAGES = ("stepaudiod", "stepaudiod-runtime-lite", "stepaudiod-voices")


def install(root: Path, pool: Path) -> None:
    """Install all packages of the pool into a Debian that isn't running."""
    target = root / "mnt/packages"
    shutil.copytree(pool, target)
    enter = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", f"--root={root}", "--wd=/"]
    debs = [f"/{deb.relative_to(root)}" for deb in target.glob("*.deb")]
    environ = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
        "LANG": "C.UTF-8",
    }
    subprocess.run([*enter, "dpkg", "--install", *debs], check=True, env=environ, stdout=subprocess.DEVNULL)
    shutil.rmtree(target)


def forget(root: Path) -> None:
    """Drop these files from the kernel's page cache, except those in use."""
    os.sync()
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                file = os.open(path, os.O_RDONLY)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(file)


def main() -> None:
    """Print the table."""
    boots = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    debian = cached_root(SUITE)
    cold, warm = [], []
    with tempfile.TemporaryDirectory(dir=debian.parent) as name:
        folder = Path(name)
        debs = [next(DEBS.glob(f"{package}_*.deb")) for package in PACKAGES]
        repository = Repository.of(debs, folder / "repository", SUITE, debian)
        root = folder / "root"
        subprocess.run(["cp", "-a", str(debian), str(root)], check=True)
        install(root, repository.pool)
        for _ in range(boots):
            forget(root)
            with Machine.boot(root) as booted:
                cold.append(first_byte(booted, request("/healthz")))
                warm.append(first_byte(booted, request("/healthz")))
    print(f"after a reboot → first byte of /healthz: {spread(cold)}")
    print(f"the next start, all of it in memory:     {spread(warm)}")


if __name__ == "__main__":
    main()
