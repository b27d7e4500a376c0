"""Memory over many mixed requests: `python -m tests.bench.memory 2000`.

Speech in every format, edits, transcriptions and damaged recordings, four at a time, in an order that is the
same each time. After each hundred the memory of the front, the worker and its decoders is looked at.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.activation import DaemonProcess, pids_of_group
from tests.bench.measure import machine, resident_mb
from tests.web.conftest import hum, wav
from tests.web.damage import damaged, good

AT_ONCE = 4
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
SENTENCE = "The birch canoe slid on the smooth planks of wood. "
EDITS = (("speed", "faster"), ("denoise", ""), ("vad", ""))


def requests(count: int) -> list[tuple[str, dict[str, object]]]:
    """`count` requests: the path and the posted data."""
    chance = random.Random(1)
    clips = [("clip.wav", wav(hum(seconds))) for seconds in (1.0, 3.0, 8.0)]
    clips += list(good().items())
    broken = damaged(count, seed=3)
    made: list[tuple[str, dict[str, object]]] = []
    for _ in range(count):
        kind = chance.random()
        if kind < 0.5:
            text = SENTENCE * chance.choice((1, 1, 2, 4))
            body = {"model": "hibari", "voice": "alloy", "input": text}
            made.append(("/v1/audio/speech", {"json": body | {"response_format": chance.choice(FORMATS)}}))
        elif kind < 0.7:
            mode, info = chance.choice(EDITS)
            form = {"mode": mode, "edit_info": info, "response_format": chance.choice(FORMATS)}
            made.append(("/v1/audio/edits", {"data": form, "files": {"file": chance.choice(clips)}}))
        elif kind < 0.8:
            form = {"model": "whisper-1"}
            made.append(("/v1/audio/transcriptions", {"data": form, "files": {"file": chance.choice(clips)}}))
        else:
            file = next(broken)
            form = {"mode": "denoise", "edit_info": ""}
            made.append(("/v1/audio/edits", {"data": form, "files": {"file": (file.name, file.data)}}))
    return made


def main() -> None:
    """Print a row after each hundred requests."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        daemon = DaemonProcess(Path(folder), {"threads": 1, "engine": "hibari"})
        daemon.notify.wait_for("READY=1")
        answers: Counter[tuple[str, int]] = Counter()

        def post(request: tuple[str, dict[str, object]]) -> None:
            path, body = request
            with httpx.Client(base_url=daemon.url, timeout=300) as client:
                answers[path, client.post(path, **body).status_code] += 1  # type: ignore[arg-type]

        print("| after | front | worker | decoders |\n| --- | --- | --- | --- |")
        todo = requests(count)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for start in range(0, count, 100):
                list(pool.map(post, todo[start : start + 100]))
                worker = daemon.worker_pid()
                decoders = " + ".join(f"{resident_mb(pid):.0f}" for pid in pids_of_group(worker))
                front = resident_mb(daemon.process.pid)
                print(
                    f"| {start + 100} | {front:.0f} MB | {resident_mb(worker):.0f} MB | {decoders} MB |",
                    flush=True,
                )
        print(dict(answers))
        daemon.end()


if __name__ == "__main__":
    main()
