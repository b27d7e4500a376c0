"""Installation and first sound on a release, as root: `SUITE=noble python -m tests.bench.installed`.

It builds the packages as `make deb SUITE=noble` does, and prints one row of the table in docs/benchmarks.md.
A booted system without a network installs the packages; each first connection finds no process.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from tests.bench.measure import first_byte_of_body, machine, request
from tests.packages.conftest import SUITE, built_packages
from tests.packages.repository import Repository
from tests.systemd.machine import Machine
from tests.systemd.root import cached_root

SPEECH = {
    "English": {"model": "hibari", "voice": "heart", "input": "Hello. I was asleep until you called."},
    "Chinese": {"model": "kokoro", "voice": "zf_xiaoxiao", "input": "你好。我一直在睡觉，直到你来。"},
}


def first_byte(booted: Machine, sent: bytes) -> float:
    """Seconds from connect to the first byte of the body, with a daemon that has to start."""
    assert booted.processes("stepaudiod.service") == []
    started = time.perf_counter()
    with booted.connect() as connection:
        connection.sendall(sent)
        answer = first_byte_of_body(connection)
        seconds = time.perf_counter() - started
    assert answer.startswith(b"HTTP/1.1 200"), answer
    booted.systemctl("stop", "stepaudiod.service")
    return seconds


def main() -> None:
    """Print the row."""
    debs = built_packages()
    root = cached_root(SUITE)
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        repository = Repository.of(debs, Path(name), SUITE, root)
        with Machine.boot(root, read_only=[repository.folder]) as booted:
            booted.remove("/etc/apt/sources.list")
            booted.remove("/etc/apt/sources.list.d")
            booted.write("/etc/apt/sources.list.d/stepaudiod.sources", repository.sources)
            booted.run("apt-get", "update")
            started = time.perf_counter()
            booted.run("apt-get", "install", "--yes", "-o", "Dpkg::Use-Pty=0", "stepaudiod", timeout_s=600)
            seconds = [time.perf_counter() - started, first_byte(booted, request("/healthz"))]
            seconds += [first_byte(booted, request("/v1/audio/speech", body)) for body in SPEECH.values()]
    sizes = [f"{deb.name.partition('_')[0]} {deb.stat().st_size / 1e6:.1f} MB" for deb in debs]
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    print(json.dumps({"suite": SUITE, "seconds": [round(each, 2) for each in seconds], "packed": sizes}))


if __name__ == "__main__":
    main()
