"""The worker: the child process that owns the engines. Independent of HTTP and of systemd.

The main thread receives frames and passes them on: each model has a thread of its own (`loop.py`), so that
neither a recording that is transcribed nor an engine that loads holds up another one's requests. One thread
sends heartbeats with a count of the progress made, so that the front can tell slow from stuck. Short-lived
ones decode recordings (`job.py`) and read ahead (`loaded.py`). When the front dies, the kernel kills this
process.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from stepaudiod.core_dumps import forbid_core_dumps
from stepaudiod.worker import held_gpu
from stepaudiod.worker.job import Recordings
from stepaudiod.worker.loaded import LoadedEngines
from stepaudiod.worker.loop import Loop
from stepaudiod.worker.protocol import (
    AddCredit,
    CancelJob,
    EndCheckpoint,
    Heartbeat,
    LoadEngine,
    PrepareCheckpoint,
    StartJob,
    ToFront,
    ToWorker,
    pack,
    receive_frame,
)

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
TURN_S = 5e-4
"""How long a thread holds the interpreter while others want it; usually 5 ms. One that waits for a GPU asks
for it every few milliseconds: beside a thread of pure Python, 3 ms would become 12."""


class Worker:
    """Serves one front over one socket until it goes away.

    Args:
        connection: our end of the socket pair.
        cache_dir: where engines keep files that can be made again.
        threads: processor threads an engine may use.
        beat_s: seconds between heartbeats.
    """

    def __init__(self, connection: socket.socket, cache_dir: Path, threads: int, beat_s: float) -> None:
        self._connection = connection
        self._beat_s = beat_s
        self._sending = threading.Lock()
        self._recordings = Recordings()
        self._engines = LoadedEngines(
            cache_dir, threads, self._tell_loading, self._recordings.decoders.decode
        )
        self._loops: dict[str, Loop] = {}
        """By the factory of a model's variants."""
        self._load_steps = 0

    def run(self) -> None:
        """Pass on the front's frames; when the front is gone, end this process."""
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        file = self._connection.makefile("rb")
        while True:
            try:
                frame = receive_frame(file)
            except (EOFError, OSError):
                os._exit(0)
            except Exception:
                log.exception("the front sent a frame that can't be read")
                os._exit(1)
            self._pass_on(frame)

    def _pass_on(self, frame: ToWorker) -> None:
        match frame:
            case StartJob(engine=engine) | LoadEngine(engine):
                if engine.factory not in self._loops:
                    loop = Loop(engine.factory, self._engines, self._recordings, self._send)
                    self._loops = {**self._loops, engine.factory: loop}  # another thread reads the old one
                self._loops[engine.factory].put(frame)
            case CancelJob() | AddCredit():
                for loop in self._loops.values():
                    loop.put(frame)
            case PrepareCheckpoint():
                for held in [loop.hold() for loop in self._loops.values()]:
                    held.wait()
                self._send(held_gpu.prepare())
            case EndCheckpoint():
                for loop in self._loops.values():
                    loop.put(frame)
                forbid_core_dumps()

    def _beat(self) -> None:
        """Send heartbeats, whose progress grows when every busy model has moved since it last did."""
        progress, before = 0, dict[str, int]()
        while True:
            loops = self._loops
            is_busy = {factory: loop.is_busy for factory, loop in loops.items()}
            # loading counts for all: some wait for one another's
            steps = {factory: loop.steps + self._load_steps for factory, loop in loops.items()}
            if all(steps[factory] != before.get(factory) for factory in loops if is_busy[factory]):
                progress, before = progress + 1, steps
            self._send(Heartbeat(progress, any(is_busy.values()), self._engines.gpu_memory()))
            time.sleep(self._beat_s)

    def _send(self, frame: ToFront) -> None:
        """Send a frame as a whole, from any thread."""
        with self._sending:
            self._connection.sendall(pack(frame))

    def _tell_loading(self, frame: ToFront) -> None:
        self._load_steps += 1
        self._send(frame)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the front dies, and first without memory: prctl(2), proc(5)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    Path("/proc/self/oom_score_adj").write_text("500")
    forbid_core_dumps()  # only now: afterwards these files of a process belong to root


def main() -> None:
    """Run as a child of the front, with one end of a socket pair."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--beat", type=float, required=True)
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    _die_with(options.parent)
    # weights come from folders: a library that would request anything from a hub does so by mistake
    os.environ["HF_HUB_OFFLINE"] = "1"
    # kernels are compiled once a machine, not once a process
    os.environ.setdefault("TRITON_CACHE_DIR", str(options.cache_dir / "triton"))
    sys.setswitchinterval(TURN_S)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    Worker(socket.socket(fileno=options.fd), options.cache_dir, options.threads, options.beat).run()


if __name__ == "__main__":
    main()
