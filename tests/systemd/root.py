"""The Debian or Ubuntu that the tests boot: built once by mmdebstrap, cached, never changed.

Knows nothing of booting, nor of the daemon.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SUITE = "bookworm"
SCRIPT = Path(__file__).parent.parent.parent / "packaging" / "mmdebstrap.sh"

PACKAGES = ("apt", "curl", "python3", "python3-systemd", "systemd", "systemd-sysv")
OPTIONS = (
    "--mode=root",
    "--variant=minbase",
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    '--aptopt=Acquire::Languages "none"',
)

# The journal must keep everything: a test starts the daemon hundreds of times in a minute.
FILES = {
    "etc/systemd/journald.conf.d/tests.conf": "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n",
    "etc/hostname": "machine\n",
}
# Background work of a real machine that would only disturb the measurements.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
)


class Unavailable(Exception):
    """This machine can't build or boot a Debian; the message is the reason."""


def cached_root(suite: str = SUITE, packages: Sequence[str] = PACKAGES) -> Path:
    """The folder of a bootable Debian; built in about half a minute if it isn't cached.

    Args:
        suite: a release of Debian or Ubuntu that the script knows.
        packages: what it has besides the essential packages.

    Raises:
        Unavailable: a tool is missing, or the packages can't be had.
    """
    recipe = repr((suite, packages, OPTIONS, FILES, MASKED))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepaudiod-tests"
    root = cache / f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _build(root, suite, packages)
    return root


def _build(root: Path, suite: str, packages: Sequence[str]) -> None:
    """Build at a temporary path, so that an interrupted build leaves nothing at `root`."""
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("mmdebstrap is not installed")
    if os.geteuid() != 0:
        raise Unavailable("building and booting a Debian needs root")
    unfinished = Path(tempfile.mkdtemp(dir=root.parent, prefix="unfinished-"))
    try:
        _mmdebstrap(suite, unfinished, [*OPTIONS, f"--include={','.join(packages)}"])
        for name, text in FILES.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_text(text)
        for unit in MASKED:
            (unfinished / "etc/systemd/system" / unit).symlink_to("/dev/null")
        unfinished.chmod(0o755)
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _mmdebstrap(suite: str, root: Path, options: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            [SCRIPT, suite, str(root), *options], capture_output=True, text=True, timeout=900
        )
    except subprocess.TimeoutExpired:
        raise Unavailable("mmdebstrap took longer than 15 minutes") from None
    if done.returncode != 0:
        raise Unavailable(f"mmdebstrap failed:\n{done.stderr[-2000:]}")
