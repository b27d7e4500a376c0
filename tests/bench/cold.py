"""From a connection to a sleeping daemon to its first byte of speech by Step-Audio-EditX:
`python -m tests.bench.cold --models DIR [--runs 5] [--device cuda] [--quantization int8]`.

The clock runs from `connect` to the first byte of the body. The first run encodes the voice, compiles kernels
and reads the weights from the disk; it is told apart. Each ends when the model is warm: what later starts
read is written then. Then the stages, one after the other in a process of its own, as the worker goes through
them. Weights may be random.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepaudiod.activate import Activator, start
from stepaudiod.voice_library import VoiceLibrary
from tests.bench.measure import first_byte_of_body, machine, request, seconds_of, spread

MODEL = "step-audio-editx"
VOICE = "bench"
SAY = {
    "model": MODEL,
    "voice": VOICE,
    "input": "The birch canoe slid on the smooth planks of wood.",
    "response_format": "pcm",
    "seed": 1,
}

STAGES = """
import json, sys, time
began = time.perf_counter()
marks = [("interpreter's own imports", began)]
def mark(name): marks.append((name, time.perf_counter()))
import stepaudiod.worker.main; mark("imports: the worker")
import torch; mark("imports: torch")
import stepaudiod.engines.step_audio.engine as stepaudio; mark("imports: the engine")
from pathlib import Path
from stepaudiod.config import StepAudio
from stepaudiod.engines.local_models import LocalEngines
from stepaudiod.requests import Facts, SpeechRequest
asked = json.loads(sys.argv[1])
engines = LocalEngines(Path(asked["data"]), StepAudio(**asked["settings"]))
(description, *_) = engines.describe()
folder, threads = Path(asked["cache"]), asked["threads"]
engine = stepaudio.StepAudioEngine(cache_dir=folder, threads=threads, **description.options)
mark("looking at the files")
stage = None
def tell(text, fraction):
    global stage
    name = text.partition(",")[0]
    if stage is not None and name != stage:
        mark("load: " + stage)
    stage = name
engine.load(tell); mark("load: " + stage)
sound = engine.speak(SpeechRequest(asked["text"], asked["voice"], seed=1))
for part in sound:
    if not isinstance(part, Facts) and part.size:
        break
mark("first sound: prompt, graphs, codes, decoder")
print(json.dumps([[name, at - before] for (_, before), (name, at) in zip(marks, marks[1:])]))
"""


def lay_out(folder: Path, models: Path) -> Path:
    """Make a data folder with these models and one voice of 6 s."""
    data = folder / "data"
    data.mkdir()
    (data / "models").symlink_to(models.resolve())
    t = np.arange(6 * 24000) / 24000
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * t)) / 24000
    sound = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    path = folder / "voice.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", "not compressed"))
        file.writeframes((8000 * sound / np.abs(sound).max()).astype("<i2").tobytes())
    VoiceLibrary(data / "voices").create(VOICE, path, "The quick brown fox jumps over the lazy dog.", "mine")
    return data


@contextlib.contextmanager
def activated(settings: Sequence[str]) -> Iterator[int]:
    """A daemon that the first connection starts; yields its port."""
    command = [sys.executable, "-m", "stepaudiod", *(f"--set={setting}" for setting in settings)]
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listeners = [("http", listener)]
        activator = Activator(listeners, lambda: start(command, listeners, os.environ))
        thread = threading.Thread(target=activator.run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            os.write(activator.wakeup_fd, bytes([signal.SIGTERM]))
            thread.join()
            activator.close()


def status(port: int) -> dict[str, Any]:
    """A daemon's models."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/models/status") as response:
        found: dict[str, Any] = json.load(response)
        return found


def wait_until_warm(port: int) -> None:
    """Wait, after the first request, until all graphs and the next start's files are there.

    Raises:
        TimeoutError: they aren't within a minute.
    """
    until = time.monotonic() + 60
    while not status(port)[MODEL].get("warm"):
        if time.monotonic() > until:
            raise TimeoutError("the model isn't warm after a minute")
        time.sleep(0.1)


def wake(settings: Sequence[str]) -> float:
    """Seconds from connect to the first byte of speech; then waits until the model is warm."""
    with activated(settings) as port:
        started = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
            connection.sendall(request("/v1/audio/speech", SAY))
            answer = first_byte_of_body(connection)
            seconds = time.perf_counter() - started
            assert answer.startswith(b"HTTP/1.1 200"), answer
            while connection.recv(65536):  # what a client leaves unread is not finished
                pass
        wait_until_warm(port)
        return seconds


def stages(data: Path, cache: Path, settings: dict[str, object], threads: int) -> list[tuple[str, float]]:
    """Seconds of each stage, in a separate process."""
    asked = {
        "data": str(data),
        "cache": str(cache),
        "settings": settings,
        "threads": threads,
        "text": SAY["input"],
        "voice": VOICE,
    }
    environ = os.environ | {"TRITON_CACHE_DIR": str(cache / "triton")}
    command = [sys.executable, "-c", STAGES, json.dumps(asked)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
    return [(name, seconds) for name, seconds in json.loads(done.stdout)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cold", description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--threads", type=int, default=min(len(os.sched_getaffinity(0)), 4))
    options = parser.parse_args(arguments)
    engine: dict[str, object] = {
        "device": options.device,
        "dtype": options.dtype,
        "quantization": options.quantization,
        "check_output": False,
    }
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, cache = lay_out(folder, options.models), folder / "cache"
        settings = [f"step_audio.{key}={json.dumps(value).strip(chr(34))}" for key, value in engine.items()]
        settings += [f"data_dir={data}", f"cache_dir={cache}", f"threads={options.threads}"]
        settings += [f"engine={MODEL}", "log_level=warning"]
        first = wake(settings)
        print(f"the first time, with nothing in any cache of ours: {first:.2f} s", flush=True)
        whole = [wake(settings) for _ in range(options.runs)]
        goal = "to reach on an H100: 4.0 s, int8 3.5 s"
        print(f"asleep → first byte of speech: {spread(whole, digits=2)} ({goal})", flush=True)
        rows = [stages(data, cache, engine, options.threads) for _ in range(options.runs)]
        print("\n| stage, in a process of its own | seconds |\n| --- | --- |")
        print(f"| interpreter | {spread([seconds_of([sys.executable, '-c', 'pass']) for _ in whole])} |")
        for index, (stage, _) in enumerate(rows[0]):
            print(f"| {stage} | {spread([row[index][1] for row in rows])} |")
        print(f"| all stages | {spread([sum(seconds for _, seconds in row) for row in rows])} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
