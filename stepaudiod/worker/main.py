"""The worker: the child process that owns the engines. Knows no HTTP and no systemd.

Three threads. The main one works: it steps the requests in turn, a chunk each, so that a short request isn't
held up by a long one and a cancelled one stops within a chunk. One receives frames. One sends heartbeats
with a count of the progress made, so that the front can tell slow from stuck. When the front dies, the
kernel kills us.
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
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudiod.errors import InvalidRequest, StepaudiodError
from stepaudiod.speech import SpeechRequest
from stepaudiod.worker.protocol import WINDOW_BYTES, Header, pack, receive_frame

if TYPE_CHECKING:
    from stepaudiod.audio.encode import Encoder
    from stepaudiod.engines.base import Engine, Waveform

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
UNCOMPRESSED = ("wav", "pcm")


class Job:
    """One request in the worker: its iterator, its encoder and how much it may still send."""

    def __init__(self, frame: Header) -> None:
        self.id: int = frame["id"]
        self.engine: str = frame["engine"]
        self.factory: str = frame["factory"]
        self.options: dict[str, str] = frame["options"]
        self.format: str = frame["format"]
        self.request = SpeechRequest(**frame["request"])
        self.credit_bytes = WINDOW_BYTES
        self._waveforms: Iterator[Waveform] | None = None
        self._encoder: Encoder | None = None

    @property
    def is_open(self) -> bool:
        """Whether the work has begun."""
        return self._waveforms is not None

    def open(self, engine: Engine) -> None:
        """Begin the work."""
        from stepaudiod.audio.encode import make_encoder

        self._encoder = make_encoder(self.format, engine.sample_rate)
        self._waveforms = iter(engine.speak(self.request))
        self.sample_rate = engine.sample_rate

    def step(self) -> tuple[bytes, float, bool]:
        """Make the next chunk: its encoded bytes, its seconds, and whether it was the last."""
        assert self._waveforms is not None
        assert self._encoder is not None
        waveform = next(self._waveforms, None)
        if waveform is None:
            return self._encoder.finish(), 0.0, True
        return self._encoder.encode(waveform), len(waveform) / self.sample_rate, False

    def close(self) -> None:
        """End the work wherever it is."""
        close = getattr(self._waveforms, "close", None)
        if close is not None:
            close()


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
        self._cache_dir = cache_dir
        self._threads = threads
        self._beat_s = beat_s
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[Header] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._engines: dict[str, Engine] = {}
        self._progress = 0

    def run(self) -> None:
        """Work until the process ends."""
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        while True:
            runnable = [job for job in self._jobs.values() if job.credit_bytes > 0]
            self._take_orders(wait=not runnable)
            for job in runnable:
                if job.id in self._jobs:
                    self._step(job)
                    self._take_orders(wait=False)

    def _receive(self) -> None:
        """Hand on the front's frames; when it is gone, so are we."""
        while True:
            try:
                frame, _ = receive_frame(self._connection)
            except (EOFError, OSError):
                os._exit(0)
            self._orders.put(frame)

    def _beat(self) -> None:
        """Say that we live, and whether the work moves."""
        while True:
            self._send({"op": "beat", "progress": self._progress, "busy": bool(self._jobs)})
            time.sleep(self._beat_s)

    def _send(self, header: Header, payload: bytes = b"") -> None:
        """Send one frame; whole, whichever thread sends."""
        with self._sending:
            self._connection.sendall(pack(header, payload))

    def _take_orders(self, *, wait: bool) -> None:
        """Carry out what the front has said; with `wait`, until it has said something."""
        try:
            while True:
                self._obey(self._orders.get(block=wait))
                wait = False
        except queue.Empty:
            pass

    def _obey(self, frame: Header) -> None:
        """One order."""
        match frame["op"]:
            case "speak":
                job = Job(frame)
                self._jobs[job.id] = job
            case "credit":
                if job_with_credit := self._jobs.get(frame["id"]):
                    job_with_credit.credit_bytes += frame["size_bytes"]
            case "cancel":
                if cancelled := self._jobs.pop(frame["id"], None):
                    cancelled.close()

    def _step(self, job: Job) -> None:
        """One chunk of one request; an error ends that request alone."""
        try:
            if not job.is_open:
                job.open(self._engine(job))
            audio, duration_s, is_last = job.step()
        except Exception as error:
            del self._jobs[job.id]
            self._send({"op": "failed", "id": job.id, **_describe(error)})
            return
        self._progress += 1
        if audio or duration_s:
            job.credit_bytes -= len(audio)
            self._send({"op": "audio", "id": job.id, "duration_s": duration_s}, audio)
        if is_last:
            del self._jobs[job.id]
            self._send({"op": "done", "id": job.id})

    def _engine(self, job: Job) -> Engine:
        """The engine of that job, loaded at its first use; the codecs are imported meanwhile."""
        if job.engine not in self._engines:
            started = time.monotonic()
            if job.format not in UNCOMPRESSED:
                threading.Thread(target=import_module, args=("av",), daemon=True).start()
            self._report_loading(job.engine, "imports", 0.0)
            module, _, name = job.factory.partition(":")
            factory = getattr(import_module(module), name)
            engine: Engine = factory(cache_dir=self._cache_dir, threads=self._threads, **job.options)
            engine.load(lambda stage, fraction: self._report_loading(job.engine, stage, fraction))
            self._engines[job.engine] = engine
            self._send({"op": "loaded", "engine": job.engine, "duration_s": time.monotonic() - started})
        return self._engines[job.engine]

    def _report_loading(self, engine: str, stage: str, fraction: float) -> None:
        """Loading moves too."""
        self._progress += 1
        self._send({"op": "loading", "engine": engine, "stage": stage, "fraction": fraction})


def _describe(error: Exception) -> dict[str, Any]:
    """An error as it crosses the border: ours by name, any other as a failed engine."""
    if isinstance(error, StepaudiodError):
        param = error.param if isinstance(error, InvalidRequest) else None
        return {"error": type(error).__name__, "message": error.message, "param": param}
    log.error("the engine raised", exc_info=error)
    message = (
        f"The engine failed on this request ({type(error).__name__}: {error}). The journal has the details."
    )
    return {"error": "EngineError", "message": message, "param": None}


def _die_with(parent: int) -> None:
    """Let the kernel kill us when the front dies, and first when memory runs out: prctl(2), proc(5)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    Path("/proc/self/oom_score_adj").write_text("500")


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    Worker(socket.socket(fileno=options.fd), options.cache_dir, options.threads, options.beat).run()


if __name__ == "__main__":
    main()
