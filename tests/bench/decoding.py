"""The cost of decoding in a separate process: `python -m tests.bench.decoding`.

Both ways in turn. Processor time beside wall time: on a machine with other work only the former means much.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stepaudiod.audio.decode import decode
from stepaudiod.worker.decoder_process import Decoders
from tests.activation import pids_of_group
from tests.audio.bombs import encoded
from tests.bench.measure import machine

ROUNDS = 40
SECONDS = 3
FORMATS = {
    "wav": ("wav", "pcm_s16le", 24_000),
    "flac": ("flac", "flac", 24_000),
    "mp3": ("mp3", "libmp3lame", 24_000),
    "ogg": ("ogg", "libopus", 48_000),
    "m4a": ("mp4", "aac", 44_100),
    "webm": ("webm", "libopus", 48_000),
    "wav at 96 kHz": ("wav", "pcm_s16le", 96_000),
}


def main() -> None:
    """Print a table: medians for a clip here and in the other process, and the differences."""
    print(machine())
    decoders = Decoders()
    print("| clip of 3 s | in the worker | in the decoder | more | more processor time |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (container, codec, rate) in FORMATS.items():
            path = Path(folder) / "clip"
            path.write_bytes(encoded(container, codec, SECONDS, rate, seed=1))
            decode(path), decoders.decode(path)  # loads libraries
            (child,) = pids_of_group(os.getpid())
            rounds = [
                (spent(child, decode, path), spent(child, decoders.decode, path)) for _ in range(ROUNDS)
            ]
            (here, here_cpu), (there, there_cpu) = (
                [1000 * statistics.median(column) for column in zip(*way, strict=True)]
                for way in zip(*rounds, strict=True)
            )
            more = f"{there - here:+.1f} ms | {there_cpu - here_cpu:+.1f} ms"
            print(f"| {name} | {here:.1f} ms | {there:.1f} ms | {more} |")
    decoders.close()


def spent(child: int, act: Callable[[Path], object], path: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of both processes."""
    clock = (~child << 3) | 2  # a process's processor time: clock_getcpuclockid(3)
    started, used = time.perf_counter(), time.process_time() + time.clock_gettime(clock)
    act(path)
    return time.perf_counter() - started, time.process_time() + time.clock_gettime(clock) - used


if __name__ == "__main__":
    main()
