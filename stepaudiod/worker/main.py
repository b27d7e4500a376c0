"""The worker: the child process that owns the engines. Independent of HTTP and of systemd.

The main thread works: it steps the requests in turn, a chunk each, so that a short request isn't held up by
a long one and a cancelled one stops within a chunk. An engine that batches requests has threads of its own,
and the main thread gives it its next work. One thread receives frames. One sends heartbeats with a count of
the progress made, so that the front can tell slow from stuck. Short-lived ones decode recordings (`job.py`)
and read ahead (`loaded.py`). When the front dies, the kernel kills this process.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

from stepaudiod.core_dumps import forbid_core_dumps
from stepaudiod.errors import InvalidRequest, StepaudiodError
from stepaudiod.worker import held_gpu
from stepaudiod.worker.decoder_process import Decoders
from stepaudiod.worker.job import Job
from stepaudiod.worker.loaded import LoadedEngines
from stepaudiod.worker.protocol import (
    NO_JOB,
    AddCredit,
    CancelJob,
    EndCheckpoint,
    EngineOrder,
    Heartbeat,
    JobDone,
    JobFailed,
    LoadEngine,
    Piece,
    PrepareCheckpoint,
    StartJob,
    ToFront,
    ToWorker,
    pack,
    receive_frame,
)

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
DECODED_AT_ONCE = 2
"""Recordings that are decoded at a time."""
HARMLESS_CUDA_ERRORS = (2, 100, 101)
"""Out of memory, no device, no such device: these of cudaError_t leave a context as it was."""
HELD = ""
"""The key of no engine."""


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
        self._orders: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        """Frames of the front, and None to wake the main thread."""
        self._jobs: dict[int, Job] = {}
        self._decoders = Decoders()
        self._engines = LoadedEngines(
            cache_dir, threads, self._tell_loading, self._decoders.decode, self._wake
        )
        self._progress = 0
        self._is_busy = False
        self._is_held = False
        """Whether a checkpoint is being made or restored: nothing may use the GPU."""
        self._decoding = threading.Semaphore(DECODED_AT_ONCE)

    def run(self) -> None:
        """Work until the process ends."""
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        while True:
            if not self._is_held:
                self._progress += self._engines.step()
            runnable = self._runnable()
            # a job that waits for a slow reader, a recording or another variant does not hang
            self._is_busy = bool(runnable) or self._engines.are_working
            self._take_orders(wait=not runnable)
            for id in runnable:
                if id in self._jobs:
                    self._step(id)
                    self._take_orders(wait=False)

    def _runnable(self) -> list[int]:
        """Return the jobs that can take a step now.

        Jobs are begun in the order they came. A job that needs another variant of a model waits for those
        that use the present one, and later jobs of that model wait behind it.
        """
        runnable: list[int] = []
        in_use = {job.engine.factory: job.engine.key for job in self._jobs.values() if job.is_begun}
        for id, job in self._jobs.items():
            if job.is_begun or job.has_failed:
                runnable += [id] if job.can_step else []
            elif job.is_ready:
                # the first that waits decides which variant comes next; no engine has the key HELD
                key = in_use.setdefault(job.engine.factory, job.engine.key)
                if key == job.engine.key:
                    runnable.append(id)
                else:
                    in_use[job.engine.factory] = HELD
        return runnable

    def _receive(self) -> None:
        """Queue the front's frames; when the front is gone, end this process."""
        file = self._connection.makefile("rb")
        while True:
            try:
                self._orders.put(receive_frame(file))
            except (EOFError, OSError):
                os._exit(0)
            except Exception:
                log.exception("the front sent a frame that can't be read")
                os._exit(1)

    def _beat(self) -> None:
        """Send heartbeats, with the progress of the work."""
        while True:
            self._send(Heartbeat(self._progress, self._is_busy, self._engines.gpu_memory()))
            time.sleep(self._beat_s)

    def _send(self, frame: ToFront) -> None:
        """Send a frame as a whole, from any thread."""
        with self._sending:
            self._connection.sendall(pack(frame))

    def _tell_loading(self, frame: ToFront) -> None:
        """Count loading as progress."""
        self._progress += 1
        self._send(frame)

    def _take_orders(self, *, wait: bool) -> None:
        """Carry out the orders that have come; with `wait`, block until there is one."""
        try:
            while True:
                match self._orders.get(block=wait):
                    case StartJob() as order:
                        self._jobs[order.id] = Job(
                            order, self._engines.get, self._decoders, self._decoding, self._wake
                        )
                    case LoadEngine(engine) if not self._jobs:  # a job loads the engine that it needs
                        self._load(engine)
                    case PrepareCheckpoint():
                        self._engines.settle()
                        self._is_held = True
                        self._send(held_gpu.prepare())
                    case EndCheckpoint():
                        self._is_held = False
                        forbid_core_dumps()
                    case AddCredit(id, size_bytes) if job := self._jobs.get(id):
                        job.credit_bytes += size_bytes
                    case CancelJob(id) if job := self._jobs.pop(id, None):
                        job.close()
                wait = False
        except queue.Empty:
            pass

    def _wake(self) -> None:
        self._orders.put(None)

    def _load(self, order: EngineOrder) -> None:
        """Load an engine before a request needs it; the first request that does gets the error."""
        try:
            self._engines.get(order)
        except Exception as error:
            log.warning("%s could not be loaded beforehand: %s", order.name, error)
            self._send(_failed(NO_JOB, error))
            _die_of(error)

    def _step(self, id: int) -> None:
        """Take one step of a job; an error ends that job alone, unless the GPU has failed."""
        job = self._jobs[id]
        self._progress += 1
        try:
            result = next(job.results)
        except Exception as error:
            del self._jobs[id]
            self._send(_failed(id, error))
            _die_of(error)
            return
        if result is not None:
            self._send(Piece(id, result))
        if job.is_done:
            del self._jobs[id]
            job.close()
            self._send(JobDone(id, round(job.work_s, 6)))


def _failed(id: int, error: Exception) -> JobFailed:
    """Describe an error: one of ours by its class, any other as an `EngineError`."""
    if isinstance(error, StepaudiodError):
        param = error.param if isinstance(error, InvalidRequest) else None
        return JobFailed(id, type(error).__name__, error.message, param)
    # the journal gets no message of the error: it may quote what a user wrote
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("the engine raised %s\n%s", type(error).__name__, where)
    message = (
        f"The engine failed on this request ({type(error).__name__}: {error}). The journal has the details."
    )
    return JobFailed(id, "EngineError", message)


def _die_of(error: Exception) -> None:
    """End this process if a GPU's context is lost: every later operation in it would fail."""
    is_gpus = isinstance(error, getattr(sys.modules.get("torch"), "AcceleratorError", ()))
    if is_gpus and getattr(error, "error_code", None) not in HARMLESS_CUDA_ERRORS:
        log.critical("the GPU failed, and the next request gets a new worker")
        os._exit(1)


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    Worker(socket.socket(fileno=options.fd), options.cache_dir, options.threads, options.beat).run()


if __name__ == "__main__":
    main()
