"""What decoding in a process of its own costs: `python -m tests.bench.decoding`. Both ways in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from stepaudiod.audio.decode import decode
from stepaudiod.worker.decoder_process import Decoders
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
    """Print a table: milliseconds for a clip here, in the other process, and the difference."""
    print(machine())
    decoders = Decoders()
    print(
        "The medians, and what the fastest round of each way differs by, which other processes disturb least."
    )
    print(
        "| clip of 3 s | in the worker | in the decoder | more | fastest |\n| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, (container, codec, rate) in FORMATS.items():
            path = Path(folder) / "clip"
            path.write_bytes(encoded(container, codec, SECONDS, rate, seed=1))
            here: list[float] = []
            there: list[float] = []
            for number in range(ROUNDS + 1):
                started = time.perf_counter()
                decode(path)
                between = time.perf_counter()
                decoders.decode(path)
                if number:  # the first round loads libraries
                    here.append((between - started) * 1000)
                    there.append((time.perf_counter() - between) * 1000)
            low, high = statistics.median(here), statistics.median(there)
            more, fastest = high - low, min(there) - min(here)
            print(f"| {name} | {low:.1f} ms | {high:.1f} ms | {more:+.1f} ms | {fastest:+.1f} ms |")
    decoders.close()


if __name__ == "__main__":
    main()
