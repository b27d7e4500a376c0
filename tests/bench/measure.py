"""Shared by the benchmarks: medians, memory, and a daemon that is started by a connection."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SAY = {"model": "hibari", "voice": "heart", "input": "The birch canoe slid on the smooth planks of wood."}


PASSED_ON = ("PYTHONPATH", "CUDA_VISIBLE_DEVICES")
"""Variables that the daemon gets too; systemd-socket-activate hands on hardly any by itself."""


def request(path: str, body: Mapping[str, object] | None = None) -> bytes:
    """An HTTP request with Connection: close."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


def first_byte_of_body(connection: socket.socket) -> bytes:
    """Read until the body begins; return what was received."""
    data = b""
    while b"\r\n\r\n" not in data or data.endswith(b"\r\n\r\n"):
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data


@contextlib.contextmanager
def sleeping_daemon(settings: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    """A daemon that systemd-socket-activate starts on the first connection: its port and process id."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "--fdname=http"]
        command += [f"--setenv={name}" for name in PASSED_ON if name in os.environ]
        command += [sys.executable, "-m", "stepaudiod", "--set=engine=hibari", f"--set=cache_dir={folder}"]
        process = subprocess.Popen([*command, *(f"--set={s}" for s in settings)], stderr=subprocess.PIPE)
        assert process.stderr is not None
        process.stderr.readline()  # Listening on …
        try:
            yield port, process.pid
        finally:
            process.terminate()
            process.stderr.read()
            process.stderr.close()
            process.wait()


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def seconds_of(command: Sequence[str]) -> float:
    """Wall time of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""})
    return time.perf_counter() - started


def spread(values: Sequence[float], unit: str = "s", digits: int = 3) -> str:
    """The median and the range, as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"median {middle:.{digits}f} {unit} ({low:.{digits}f} to {high:.{digits}f}, n={len(values)})"


def machine() -> str:
    """A description of the machine."""
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    )
    cores = len(os.sched_getaffinity(0))
    kernel = platform.release().split("-")[0]
    return f"{model}, {cores} cores, Python {platform.python_version()}, Linux {kernel}"
