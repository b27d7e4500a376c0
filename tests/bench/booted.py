"""Waking under a real systemd, in the whole sandbox: `python -m tests.bench.booted [RUNS]`, as root."""

from __future__ import annotations

import json
import sys
import time

from tests.bench.measure import SAY, first_byte_of_body, machine, request, resident_mb, spread
from tests.systemd.conftest import CHECKOUT, UNITS, daemon_folders, install_daemon
from tests.systemd.machine import Machine
from tests.systemd.root import cached_root

SERVICE, SOCKET = "stepaudiod.service", "stepaudiod.socket"


def wake(booted: Machine, data: bytes) -> tuple[float, float]:
    """Seconds from connect to the first byte of the body, and the front's memory."""
    started = time.perf_counter()
    connection = booted.connect()
    with connection:
        connection.sendall(data)
        answer = first_byte_of_body(connection)
        seconds = time.perf_counter() - started
        assert answer.startswith(b"HTTP/1.1 200"), answer
        while connection.recv(65536):
            pass
    memory = resident_mb(booted.main_process(SERVICE))
    booted.systemctl("stop", SERVICE)
    return seconds, memory


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(machine())
    with Machine.boot(cached_root(), read_only=daemon_folders()) as booted:
        booted.install_units(UNITS)
        install_daemon(booted, [CHECKOUT])
        booted.write("/etc/stepaudiod/stepaudiod.toml", f"engine = {json.dumps('hibari')}\n")
        booted.systemctl("start", SOCKET)
        wake(booted, request("/v1/audio/speech", SAY))
        health = [wake(booted, request("/healthz")) for _ in range(runs)]
        speech = [wake(booted, request("/v1/audio/speech", SAY))[0] for _ in range(runs)]
    print(f"asleep → first byte of /healthz:     {spread([seconds for seconds, _ in health])}")
    print(f"front after a health check:          {spread([memory for _, memory in health], 'MB', 1)}")
    print(f"asleep → first byte of speech (mp3): {spread(speech)}")


if __name__ == "__main__":
    main()
