"""The engines in the worker's memory: each is loaded at its first use, one of each kind.

Two engines of one factory are variants of one model, and there is memory for one of them: the other replaces
it once no request uses it. The threads of several models load engines. An engine is used by its model's
thread, and a recogniser also by that of a model that lacks a transcript.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stepaudiod.worker.prepare_gpu import prepare_gpu
from stepaudiod.worker.protocol import EngineDropped, EngineLoaded, EngineLoading, EngineOrder, ToFront

if TYPE_CHECKING:
    from stepaudiod.engines.base import Batching, Clip, Decode, Engine, Reading, Transcribing
    from stepaudiod.requests import Facts, Segment, TranscriptionRequest

READ_AHEAD_BYTES = 16 << 20
"""Bytes requested from the kernel at a time: a request for gigabytes would block the disk for all others."""


class LoadedEngines:
    """What has been loaded.

    Args:
        cache_dir: where engines keep files that can be made again.
        threads: processor threads an engine may use.
        tell: sends a frame to the front.
        decode: given to engines that read recordings of their own, see `engines.base.Reading`.
    """

    def __init__(
        self,
        cache_dir: Path,
        threads: int,
        tell: Callable[[ToFront], None],
        decode: Decode,
    ) -> None:
        self._cache_dir = cache_dir
        self._threads = threads
        self._tell = tell
        self._decode = decode
        self._changing = {uses_device: threading.Lock() for uses_device in (False, True)}
        """Engines that may use a GPU share its memory, so they change one by one; others wait for none."""
        self._engines: dict[str, Engine] = {}
        self._orders: dict[str, EngineOrder] = {}
        self._on_cpu: set[str] = set()
        self._recognisers: set[str] = set()
        """Names of engines that transcribe for another one; they stay loaded."""

    def get(self, order: EngineOrder, wake: Callable[[], None] = lambda: None) -> Engine:
        """The engine, loaded at its first use; the caller ensures that no request uses another variant.

        `wake` is given to an engine that batches requests, see `engines.base.Batching`.

        Raises:
            StepaudiodError: it can't be loaded.
        """
        if self._name_of(order) is None:
            for engine in self.batching(order.factory).values():
                engine.settle()  # not below: what it does may load a recogniser
        with self._changes_of(order):
            if self._name_of(order) is None:
                for other, loaded in list(self._orders.items()):
                    if loaded.factory == order.factory and other not in self._recognisers:
                        self._drop(other)
            return self._loaded(order, wake)

    def batching(self, factory: str) -> dict[str, Batching]:
        """The loaded engines of a factory that batch requests; to be called by their model's thread."""
        names = [name for name, order in list(self._orders.items()) if order.factory == factory]
        found = {name: self._engines[name] for name in names}
        return {name: cast("Batching", each) for name, each in found.items() if hasattr(each, "attach")}

    def _name_of(self, order: EngineOrder) -> str | None:
        """The name under which the engine is loaded: the same weights may have several names."""
        return next((name for name, loaded in list(self._orders.items()) if loaded.key == order.key), None)

    def recogniser(self, order: dict[str, Any]) -> Transcribing:
        """The engine that transcribes for another one; the same that serves transcriptions.

        It is loaded beside another variant, which a request may be using.
        """
        wanted = _order(order)
        with self._changes_of(wanted):
            self._recognisers.add(self._name_of(wanted) or wanted.name)
            return cast("Transcribing", self._loaded(wanted, lambda: None))

    def is_loaded(self, order: dict[str, Any]) -> bool:
        """Whether an engine is in memory."""
        return self._name_of(_order(order)) is not None

    def run_on_cpu(self, order: dict[str, Any], is_on_cpu: bool) -> None:
        """Choose where an engine will be loaded: on the CPU where the GPU has no memory for it."""
        (self._on_cpu.add if is_on_cpu else self._on_cpu.discard)(_order(order).key)

    def _changes_of(self, order: EngineOrder) -> threading.Lock:
        return self._changing["device" in order.options]

    def _loaded(self, order: EngineOrder, wake: Callable[[], None]) -> Engine:
        if (name := self._name_of(order)) is None:
            try:
                self._load(order, wake)
            except Exception:
                self._tell(EngineDropped(order.name))
                raise
        return self._engines[name or order.name]

    def _load(self, order: EngineOrder, wake: Callable[[], None]) -> None:
        started = time.monotonic()
        options = order.options | ({"device": "cpu"} if order.key in self._on_cpu else {})
        threading.Thread(target=_read_ahead, args=(order.files,), name="read ahead", daemon=True).start()
        preparing = threading.Thread(
            target=prepare_gpu, args=(str(options.get("device", "cpu")),), name="prepare GPU", daemon=True
        )
        preparing.start()
        self._report(order.name, "imports", 0.0)
        with _no_collection():
            module, _, name = order.factory.partition(":")
            factory = getattr(import_module(module), name)
            engine: Engine = factory(cache_dir=self._cache_dir, threads=self._threads, **options)
            if hasattr(engine, "decode"):
                reading = cast("Reading", engine)
                reading.decode, reading.engines = self._decode, self
            engine.load(lambda stage, fraction: self._report(order.name, stage, fraction))
        if hasattr(engine, "attach"):
            cast("Batching", engine).attach(wake)
        about = getattr(engine, "about", None)
        if hasattr(engine, "transcribe"):
            engine = cast("Engine", Shared(cast("Transcribing", engine), engine.sample_rate))
        self._engines[order.name], self._orders[order.name] = engine, order
        duration_s = time.monotonic() - started
        self._tell(EngineLoaded(order.name, duration_s, about() if about is not None else {}))

    def _report(self, engine: str, stage: str, fraction: float) -> None:
        self._tell(EngineLoading(engine, stage, fraction))

    def _drop(self, name: str) -> None:
        """Free an engine's memory for its successor in this process."""
        if hasattr(engine := self._engines[name], "attach"):
            cast("Batching", engine).close()
        del engine, self._orders[name], self._engines[name]
        gc.unfreeze()
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None:
            # PyTorch's, while another thread captures a graph, or Python's, while one imports it
            with suppress(RuntimeError, AttributeError):
                torch.cuda.empty_cache()
        self._tell(EngineDropped(name))

    def gpu_memory(self) -> dict[str, int]:
        """The GPU memory of this process, in bytes; empty where no engine uses a GPU."""
        # called by the heartbeat's thread, while another one may be importing torch
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        is_initialized = getattr(cuda, "is_initialized", None)
        if cuda is None or is_initialized is None or not self._engines or not is_initialized():
            return {}
        devices = range(cuda.device_count())
        return {
            "allocated_bytes": sum(map(cuda.memory_allocated, devices)),
            "reserved_bytes": sum(map(cuda.memory_reserved, devices)),
        }


class Shared:
    """A recogniser that several threads use: a step each, in the order in which they ask."""

    def __init__(self, engine: Transcribing, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._engine = engine
        self._changed = threading.Condition()
        self._given = self._served = 0
        """Numbers of turns. With a lock, the thread that has just had it could take it again and again."""

    def transcribe(self, request: TranscriptionRequest, clip: Clip) -> Iterator[Segment | Facts]:
        steps = iter(self._engine.transcribe(request, clip))
        while True:
            with self._turn():
                result = next(steps, None)
            if result is None:
                return
            yield result

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._changed:
            mine, self._given = self._given, self._given + 1
            self._changed.wait_for(lambda: self._served == mine)
        try:
            yield
        finally:
            with self._changed:
                self._served += 1
                self._changed.notify_all()


def _order(table: dict[str, Any]) -> EngineOrder:
    """The order of an engine in the options of another one."""
    return EngineOrder(table["name"], table["factory"], table["options"], tuple(table["files"]))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection while an engine loads, and let later ones skip what was loaded.

    The objects of packages and networks, some 200,000, would be traversed repeatedly, and again in a request.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _read_ahead(files: tuple[str, ...]) -> None:
    """Have the kernel fetch the weights while packages are being imported: posix_fadvise(2)."""
    for path in files:
        with suppress(OSError), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            for offset in range(0, size, READ_AHEAD_BYTES):
                os.posix_fadvise(file.fileno(), offset, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
