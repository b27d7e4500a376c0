"""From a connection to a sleeping daemon to its first byte: `python -m tests.bench.wake [RUNS]`.

Compares waking (GET /healthz) with a bare interpreter that imports starlette and uvicorn, in turn, in one
run; then times the first byte of speech, and where that time goes.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time

from tests.bench.measure import (
    SAY,
    first_byte_of_body,
    machine,
    request,
    resident_mb,
    seconds_of,
    sleeping_daemon,
    spread,
)

BARE = [sys.executable, "-c", "import starlette, uvicorn"]

STAGES = """
import time; t = [time.perf_counter()]
import stepaudiod.worker.main, stepaudiod.engines.hibari; t.append(time.perf_counter())
from pathlib import Path
engine = stepaudiod.engines.hibari.HibariEngine(cache_dir=Path("/nowhere"), threads=2)
engine.load(lambda stage, fraction: None); t.append(time.perf_counter())
from stepaudiod.audio.encode import make_encoder
from stepaudiod.requests import SpeechRequest
encoder = make_encoder("mp3", engine.sample_rate); t.append(time.perf_counter())
encoder.encode(next(iter(engine.speak(SpeechRequest(%r, "heart"))))); t.append(time.perf_counter())
print(*(b - a for a, b in zip(t, t[1:])))
"""


def wake(data: bytes) -> tuple[float, float]:
    """Seconds from connect to the first byte of the body, and the front's memory."""
    with sleeping_daemon() as (port, pid):
        started = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(data)
            answer = first_byte_of_body(connection)
            seconds = time.perf_counter() - started
            assert answer.startswith(b"HTTP/1.1 200"), answer
            while connection.recv(65536):
                pass
        return seconds, resident_mb(pid)


def stages() -> list[float]:
    """Seconds of the worker's imports, load, codec and first sentence, in a separate process."""
    code = STAGES % SAY["input"]
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return [float(part) for part in output.split()]


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(machine())
    bare, health, speech, memory, parts = [], [], [], [], []
    wake(request("/healthz"))
    for _ in range(runs):
        bare.append(seconds_of(BARE))
        seconds, size = wake(request("/healthz"))
        health.append(seconds)
        memory.append(size)
        speech.append(wake(request("/v1/audio/speech", SAY))[0])
        parts.append([seconds_of([sys.executable, "-c", "pass"]), *stages()])
    print(f"bare interpreter, starlette and uvicorn: {spread(bare)}")
    print(f"asleep → first byte of /healthz:         {spread(health)}")
    ratio = statistics.median(h / b for h, b in zip(health, bare, strict=True))
    print(f"  times the bare interpreter:            {ratio:.2f}")
    print(f"front after a health check:              {spread(memory, 'MB', 1)}")
    print(f"asleep → first byte of speech (mp3):     {spread(speech)}")
    names = [
        "worker: interpreter",
        "worker: imports",
        "worker: load",
        "worker: codec",
        "worker: first sentence",
    ]
    for name, values in zip(names, zip(*parts, strict=True), strict=True):
        print(f"  {name:38} {spread(values)}")


if __name__ == "__main__":
    main()
