"""The Debian that the tests boot: built once by mmdebstrap, kept in the user's cache, never written to.

Knows nothing of booting, nor of the daemon.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("curl", "python3", "python3-systemd", "systemd", "systemd-sysv")
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
    """This machine cannot build or boot a Debian; the message is the reason."""


def cached_root() -> Path:
    """The folder of a bootable Debian; builds it, in about half a minute, where the cache has none.

    Raises:
        Unavailable: a tool is missing, or the packages can't be had.
    """
    recipe = repr((SUITE, PACKAGES, OPTIONS, FILES, MASKED))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepaudiod-tests"
    root = cache / f"{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _build(root)
    return root


def _build(root: Path) -> None:
    """A build that is cut short leaves nothing at `root`."""
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("mmdebstrap is not installed")
    if os.geteuid() != 0:
        raise Unavailable("building and booting a Debian needs root")
    unfinished = Path(tempfile.mkdtemp(dir=root.parent, prefix="unfinished-"))
    try:
        command = ["mmdebstrap", *OPTIONS, f"--include={','.join(PACKAGES)}", SUITE, str(unfinished)]
        # "-" reads the sources from standard input; without it mmdebstrap takes Debian's usual mirror.
        sources = _host_sources()
        done = subprocess.run(
            [*command, "-"] if sources else command,
            input=sources,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode != 0:
            raise Unavailable(f"mmdebstrap failed:\n{done.stderr[-2000:]}")
        for name, text in FILES.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_text(text)
        for unit in MASKED:
            (unfinished / "etc/systemd/system" / unit).symlink_to("/dev/null")
        unfinished.chmod(0o755)
        unfinished.rename(root)
    except subprocess.TimeoutExpired:
        raise Unavailable("mmdebstrap took longer than 15 minutes") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _host_sources() -> str:
    """The host's own sources of this suite of Debian, in one-line form; empty where apt knows none."""
    done = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
            "Origin: Debian",
        ],
        capture_output=True,
        text=True,
    )
    targets = dict.fromkeys(tuple(line.split()) for line in done.stdout.splitlines())
    suites = {SUITE, f"{SUITE}-updates", f"{SUITE}-security"}
    return "".join(f"deb {uri} {suite} {component}\n" for uri, suite, component in targets if suite in suites)
