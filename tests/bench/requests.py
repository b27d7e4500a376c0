"""The front's overhead per request, and the cost of many requests: `python -m tests.bench.requests`.

The same sentence by the engine called directly and over the API, in turn; then 200 requests in a row and 50
at once, with the memory of front and worker before and after.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from stepaudiod.audio.encode import make_encoder
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.requests import SpeechRequest
from tests.activation import DaemonProcess
from tests.bench.measure import SAY, machine, resident_mb, spread

WAV = SAY | {"response_format": "wav", "seed": 1}


def directly(engine: HibariEngine) -> float:
    """Seconds for a sentence without a daemon."""
    started = time.perf_counter()
    encoder = make_encoder("wav", engine.sample_rate)
    for waveform in engine.speak(SpeechRequest(str(SAY["input"]), "heart", seed=1)):
        encoder.encode(waveform)
    encoder.finish()
    return time.perf_counter() - started


def over_http(client: httpx.Client) -> float:
    """Seconds for the same sentence over the API."""
    started = time.perf_counter()
    client.post("/v1/audio/speech", json=WAV).raise_for_status()
    return time.perf_counter() - started


def memory(daemon: DaemonProcess) -> tuple[float, float]:
    """Megabytes of the front and of the worker."""
    return resident_mb(daemon.process.pid), resident_mb(daemon.worker_pid())


def main() -> None:
    """Print the table."""
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        daemon = DaemonProcess(Path(folder), {"threads": 1})
        daemon.notify.wait_for("READY=1")
        engine = HibariEngine(cache_dir=Path(folder), threads=1)
        engine.load(lambda stage, fraction: None)
        with daemon.client() as client:
            for _ in range(10):
                directly(engine), over_http(client)
            pairs = [(directly(engine), over_http(client)) for _ in range(100)]
            cost = [1000 * (http - direct) for direct, http in pairs]
            print(f"engine directly: {spread([1000 * d for d, _ in pairs], 'ms', 1)}")
            print(f"over the API:    {spread([1000 * h for _, h in pairs], 'ms', 1)}")
            print(f"cost of the front a request: median {statistics.median(cost):.1f} ms")
            before = memory(daemon)
            for _ in range(200):
                over_http(client)
            row = memory(daemon)
        with ThreadPoolExecutor(50) as pool:
            statuses = list(pool.map(lambda _: post_alone(daemon), range(50)))
            warm = memory(daemon)
            statuses += list(pool.map(lambda _: post_alone(daemon), range(50)))
        after = memory(daemon)
        print(
            "200 in a row, then 50 at once twice: "
            + ", ".join(f"{s}: {statuses.count(s)}" for s in set(statuses))
        )
        for name, a, b, c, d in zip(("front", "worker"), before, row, warm, after, strict=True):
            print(f"  {name:6} {a:.1f} MB, after the row {b:.1f}, after 50 at once {c:.1f}, again {d:.1f}")
        daemon.end()


def post_alone(daemon: DaemonProcess) -> int:
    """Post with a new client."""
    with daemon.client() as client:
        return client.post("/v1/audio/speech", json=WAV).status_code


if __name__ == "__main__":
    main()
