"""The decoder: a child of the worker that reads untrusted recordings; one of them may crash it.

It gets a recording and a place for its samples as file descriptors, and answers with how many samples there
are. Once it has loaded its libraries it can do no more than that: see `sandbox.py`. It leaves when its socket
ends. Independent of requests and of engines.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from typing import Any

from stepaudiod.audio.decode import Limits, bound_allocations, decode_into
from stepaudiod.errors import InvalidRequest
from stepaudiod.worker.sandbox import restrict

MESSAGE_BYTES = 65536
MEMORY_BYTES = 256 << 20
"""What decoding may take beyond the libraries; the samples lie elsewhere, and good recordings need little."""
MOST_FILES = 16


def serve(connection: socket.socket) -> None:
    """Decode one recording after the other until the worker is gone.

    Worker to decoder: limits, param and cpu_s, seconds of processor time; with two descriptors, the recording
    and the place for its samples. Any message without descriptors cancels what is being decoded.
    Decoder to worker: sandbox, once; then for each recording rate and samples, or error, message and param.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while True:
        message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 2)
        if not message:
            return
        if len(files) == 2:  # otherwise it cancels what is done already
            answer = _decode(json.loads(message), files[0], files[1], lambda: bool(poll.poll(0)))
            connection.send(json.dumps(answer).encode())


def _decode(
    order: dict[str, Any], recording_fd: int, samples_fd: int, is_unwanted: Callable[[], bool]
) -> dict[str, Any]:
    # the kernel ends this process, by SIGXCPU, once it has used that much more of a processor
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + order["cpu_s"]) + 1, hard))
    param = order["param"]
    try:
        with open(recording_fd, "rb", buffering=0) as recording, open(samples_fd, "wb") as samples:
            rate = decode_into(recording, samples, Limits(**order["limits"]), param, is_unwanted)
            return {"rate": rate, "samples": samples.tell() // 4}
    except InvalidRequest as error:
        return {"error": type(error).__name__, "message": error.message, "param": error.param}
    except MemoryError:
        message = "The recording is damaged: it asks for more memory than a recording needs."
        return {"error": "InvalidRequest", "message": message, "param": param}


def _warm_up() -> None:
    """Load what is loaded at the first recording: afterwards no file can be opened."""
    # PyAV imports these for the first file with subtitles, and all others with itself
    for module in ("av.subtitles.codeccontext", "av.subtitles.stream"):
        import_module(module)
    rate, channels, sample, size = 96_000, 2, 4, 8000
    header = (3, channels, rate, rate * channels * sample, channels * sample, 8 * sample)
    chunks = struct.pack("<4s4sIHHIIHH4sI", b"WAVE", b"fmt ", 16, *header, b"data", size) + bytes(size)
    for recording in (struct.pack("<4sI", b"RIFF", len(chunks)) + chunks, b"none at all"):
        with suppress(InvalidRequest):
            decode_into(BytesIO(recording), BytesIO(), Limits(), "file", lambda: False)


def _bound_memory() -> None:
    """Give this process a fixed amount of memory beyond what it has, few descriptors and no core dumps."""
    with open("/proc/self/statm") as file:
        mapped_bytes = int(file.read().split()[0]) * resource.getpagesize()
    most_bytes = mapped_bytes + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Run as a child of the worker, with one end of a socket pair."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    connection = socket.socket(fileno=parser.parse_args().fd)
    bound_allocations()
    _warm_up()
    _bound_memory()
    connection.send(json.dumps({"sandbox": restrict()}).encode())
    serve(connection)


if __name__ == "__main__":
    main()
