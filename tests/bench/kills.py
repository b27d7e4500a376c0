"""The worker killed at random times under load: `python -m tests.bench.kills [KILLS]`.

Eight clients speak without a pause. Every request must end as audio, as an error in form, or as a body that
is visibly cut off; the one after each kill must be served.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from tests.activation import DaemonProcess, pids_of_group
from tests.bench.measure import SAY, machine

TEXT = " ".join([str(SAY["input"])] * 2)


def speak(client: httpx.Client, text: str) -> str:
    """Send one request; return its outcome."""
    try:
        response = client.post("/v1/audio/speech", json=SAY | {"input": text, "response_format": "wav"})
    except httpx.RemoteProtocolError as error:
        return "cut off, visibly" if "incomplete" in str(error) else f"LOST: {error}"
    if response.status_code == 200:
        return "audio" if len(response.content) > 48_000 else "LOST: short audio with status 200"
    if response.status_code == 503 and response.json()["error"]["code"] == "worker_lost":
        return "503 worker_lost"
    return f"LOST: {response.status_code} {response.text}"


def main() -> None:
    """Print the outcomes of the requests."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print(machine())
    luck, ends = random.Random(1), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        daemon = DaemonProcess(Path(folder), {})
        daemon.notify.wait_for("READY=1")
        over = threading.Event()

        def load() -> None:
            with daemon.client() as client:
                while not over.is_set():
                    ends[speak(client, TEXT)] += 1

        clients = [threading.Thread(target=load) for _ in range(8)]
        for thread in clients:
            thread.start()
        killed = 0
        while killed < kills:
            time.sleep(luck.uniform(0.1, 3))
            for pid in pids_of_group(daemon.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        over.set()
        for thread in clients:
            thread.join()
        with daemon.client() as client:
            print(f"after the last kill: {speak(client, TEXT)}")
        daemon.end()
    print(f"{killed} kills; " + ", ".join(f"{count} × {end}" for end, count in ends.most_common()))


if __name__ == "__main__":
    main()
