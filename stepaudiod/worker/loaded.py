"""The engines in the worker's memory: each is loaded at its first use, one of each kind.

Two engines of one factory are variants of one model, and there is memory for one of them: the other replaces
it once no request uses it.
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

from stepaudiod.worker.cuda_context import make_context
from stepaudiod.worker.protocol import EngineDropped, EngineLoaded, EngineLoading, EngineOrder, ToFront

if TYPE_CHECKING:
    from stepaudiod.engines.base import Batching, Decode, Engine, Reading, Transcribing

READ_AHEAD_BYTES = 16 << 20
"""Bytes requested from the kernel at a time: a request for gigabytes would block the disk for all others."""


class LoadedEngines:
    """What has been loaded.

    Args:
        cache_dir: where engines keep files that can be made again.
        threads: processor threads an engine may use.
        tell: sends a frame to the front.
        decode: given to engines that read recordings of their own, see `engines.base.Reading`.
        wake: given to engines that batch requests, see `engines.base.Batching`.
    """

    def __init__(
        self,
        cache_dir: Path,
        threads: int,
        tell: Callable[[ToFront], None],
        decode: Decode,
        wake: Callable[[], None],
    ) -> None:
        self._cache_dir = cache_dir
        self._threads = threads
        self._tell = tell
        self._decode = decode
        self._wake = wake
        self._loading = threading.Lock()
        """An engine that transcribes for another one is loaded in a thread of that one."""
        self._engines: dict[str, Engine] = {}
        self._orders: dict[str, EngineOrder] = {}
        self._on_cpu: set[str] = set()
        self._recognisers: set[str] = set()
        """Names of engines that transcribe for another one; they stay loaded."""

    def get(self, order: EngineOrder) -> Engine:
        """The engine, loaded at its first use; the caller ensures that no request uses another variant.

        Raises:
            StepaudiodError: it can't be loaded.
        """
        if self._name_of(order) is None:
            for other, loaded in list(self._orders.items()):
                if loaded.factory == order.factory and other not in self._recognisers:
                    self._drop(other)
        return self._loaded(order)

    def step(self) -> int:
        """Advance the engines that batch requests; returns the number of tasks that have ended."""
        return sum(engine.step() for engine in self._batching())

    @property
    def are_working(self) -> bool:
        """Whether an engine that batches requests has work."""
        return any(engine.is_working for engine in self._batching())

    def settle(self) -> None:
        """Wait for what those engines are doing; nothing starts before the next `step`."""
        for engine in self._batching():
            engine.settle()

    def _batching(self) -> list[Batching]:
        engines = list(self._engines.values())  # another thread may add one
        return [cast("Batching", each) for each in engines if hasattr(each, "attach")]

    def _name_of(self, order: EngineOrder) -> str | None:
        """The name under which the engine is loaded: the same weights may have several names."""
        return next((name for name, loaded in list(self._orders.items()) if loaded.key == order.key), None)

    def recogniser(self, order: dict[str, Any]) -> Transcribing:
        """The engine that transcribes for another one; the same that serves transcriptions.

        It is loaded beside another variant, which a request may be using.
        """
        wanted = _order(order)
        self._recognisers.add(self._name_of(wanted) or wanted.name)
        return cast("Transcribing", self._loaded(wanted))

    def is_loaded(self, order: dict[str, Any]) -> bool:
        """Whether an engine is in memory."""
        return self._name_of(_order(order)) is not None

    def run_on_cpu(self, order: dict[str, Any], is_on_cpu: bool) -> None:
        """Choose where an engine will be loaded: on the CPU where the GPU has no memory for it."""
        (self._on_cpu.add if is_on_cpu else self._on_cpu.discard)(_order(order).key)

    def _loaded(self, order: EngineOrder) -> Engine:
        with self._loading:
            if (name := self._name_of(order)) is None:
                self._load(order)
            return self._engines[name or order.name]

    def _load(self, order: EngineOrder) -> None:
        started = time.monotonic()
        options = order.options | ({"device": "cpu"} if order.key in self._on_cpu else {})
        threading.Thread(target=_read_ahead, args=(order.files,), name="read ahead", daemon=True).start()
        context = threading.Thread(
            target=make_context, args=(str(options.get("device", "cpu")),), name="CUDA context", daemon=True
        )
        context.start()
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
            cast("Batching", engine).attach(self._wake)
        self._engines[order.name], self._orders[order.name] = engine, order
        about = getattr(engine, "about", None)
        duration_s = time.monotonic() - started
        self._tell(EngineLoaded(order.name, duration_s, about() if about is not None else {}))

    def _report(self, engine: str, stage: str, fraction: float) -> None:
        self._tell(EngineLoading(engine, stage, fraction))

    def _drop(self, name: str) -> None:
        """Free an engine's memory for its successor in this process."""
        if hasattr(engine := self._engines[name], "attach"):
            cast("Batching", engine).close()
        del engine, self._engines[name], self._orders[name]
        gc.unfreeze()
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None:
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
