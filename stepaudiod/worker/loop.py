"""A model's thread in the worker: it steps the model's requests in turn, a chunk each.

So a short request isn't held up by a long one, and a cancelled one stops within a chunk. A model that batches
requests has threads of its own, and this one gives it its next work. Independent of other models.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from stepaudiod.errors import InvalidRequest, StepaudiodError
from stepaudiod.worker.job import Job, Recordings
from stepaudiod.worker.loaded import LoadedEngines
from stepaudiod.worker.protocol import (
    NO_JOB,
    AddCredit,
    CancelJob,
    EndCheckpoint,
    EngineOrder,
    EngineWarm,
    JobDone,
    JobFailed,
    LoadEngine,
    Piece,
    StartJob,
    ToFront,
)

if TYPE_CHECKING:
    from stepaudiod.engines.base import Batching

log = logging.getLogger(__name__)

HARMLESS_CUDA_ERRORS = (2, 100, 101)
"""Out of memory, no device, no such device: these of cudaError_t leave a context as it was."""
HELD = ""
"""The key of no engine."""


@dataclass(frozen=True)
class _Hold:
    """Use no GPU from now on."""

    is_held: threading.Event = field(default_factory=threading.Event)


Order = StartJob | CancelJob | AddCredit | LoadEngine | EndCheckpoint | _Hold | None
"""A frame of the front, or None to look again."""


class Loop:
    """The requests of one factory's engines, which are variants of one model.

    `steps` counts what has been done; it stops when the work hangs. `is_busy` is whether there is work.
    """

    def __init__(
        self,
        factory: str,
        engines: LoadedEngines,
        recordings: Recordings,
        send: Callable[[ToFront], None],
    ) -> None:
        self.steps = 0
        self.is_busy = False
        self._warm: set[str] = set()
        """Engines of which the front knows that they are warm."""
        self._factory = factory
        self._engines = engines
        self._recordings = recordings
        self._send = send
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._is_held = False
        """Whether a checkpoint is being made or restored."""
        self._load = partial(engines.get, wake=self._wake)
        threading.Thread(target=self._run, name=factory, daemon=True).start()

    def put(self, order: Order) -> None:
        """Give an order, from any thread; those of jobs that are not here are ignored."""
        self._orders.put(order)

    def hold(self) -> threading.Event:
        """Have it use no GPU until `EndCheckpoint`; the event is set when it has stopped."""
        hold = _Hold()
        self.put(hold)
        return hold.is_held

    def _wake(self) -> None:
        self.put(None)

    def _run(self) -> None:
        try:
            while True:
                self._take_turns()
        except ConnectionError:  # the front is gone
            os._exit(0)
        except Exception:
            log.exception("the worker has a fault, and the next request gets a new one")
            os._exit(1)

    def _take_turns(self) -> None:
        """Advance the engine that batches requests, and step each job that can take a step."""
        batching = self._engines.batching(self._factory)
        if not self._is_held:
            self.steps += sum(engine.step() for engine in batching.values())
            self._tell_warm(batching)
        runnable = self._runnable()
        # a job that waits for a slow reader, a recording or another variant does not hang
        self.is_busy = bool(runnable) or any(each.is_working for each in batching.values())
        self._take_orders(wait=not runnable)
        for id in runnable:
            if id in self._jobs:
                self._step(id)
                self._take_orders(wait=False)

    def _tell_warm(self, batching: dict[str, Batching]) -> None:
        warm = {name for name, engine in batching.items() if engine.is_warm}
        for name in warm - self._warm:
            self._send(EngineWarm(name))
        self._warm = (self._warm | warm) & batching.keys()

    def _runnable(self) -> list[int]:
        """Return the jobs that can take a step now.

        Jobs are begun in the order they came. A job that needs another variant waits for those that use the
        present one, and later jobs wait behind it.
        """
        runnable: list[int] = []
        in_use = next((job.engine.key for job in self._jobs.values() if job.is_begun), None)
        for id, job in self._jobs.items():
            if job.is_begun or job.has_failed:
                runnable += [id] if job.can_step else []
            elif job.is_ready:
                # the first that waits decides which variant comes next; no engine has the key HELD
                in_use = job.engine.key if in_use is None else in_use
                if in_use == job.engine.key:
                    runnable.append(id)
                else:
                    in_use = HELD
        return runnable

    def _take_orders(self, *, wait: bool) -> None:
        """Carry out the orders that have come; with `wait`, block until there is one."""
        try:
            while True:
                match self._orders.get(block=wait):
                    case StartJob() as order:
                        self._jobs[order.id] = Job(order, self._load, self._recordings, self._wake)
                    case LoadEngine(wanted) if not self._jobs:  # a job loads the engine that it needs
                        self._load_beforehand(wanted)
                    case _Hold(is_held):
                        for engine in self._engines.batching(self._factory).values():
                            engine.settle()
                        self._is_held = True
                        is_held.set()
                    case EndCheckpoint():
                        self._is_held = False
                    case AddCredit(id, size_bytes) if job := self._jobs.get(id):
                        job.credit_bytes += size_bytes
                    case CancelJob(id) if job := self._jobs.pop(id, None):
                        job.close()
                wait = False
        except queue.Empty:
            pass

    def _load_beforehand(self, order: EngineOrder) -> None:
        """Load an engine before a request needs it; the first request that does gets the error."""
        try:
            self._load(order)
        except Exception as error:
            log.warning("%s could not be loaded beforehand: %s", order.name, error)
            self._send(_failed(NO_JOB, error))
            _die_of(error)

    def _step(self, id: int) -> None:
        """Take one step of a job; an error ends that job alone, unless the GPU has failed."""
        job = self._jobs[id]
        self.steps += 1
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
    if isinstance(error, getattr(sys.modules.get("torch"), "OutOfMemoryError", ())):
        from stepaudiod.engines.gpu_limit import full  # PyTorch is there

        error = full()
        log.warning("%s", error)
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
