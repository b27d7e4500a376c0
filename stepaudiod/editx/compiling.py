"""Compiles a GPU's kernels before the first request, by several threads, and loads them at each start.

    launch everything ──▶ Triton tells which kernels it lacks, and launches none ──▶ threads compile those
                                                                                          │ their list
    each start        ──▶ a thread loads all of the list, while others read weights ◀─────┘

One after the other, as they are first launched, they are compiled in most of a minute. To load them then,
beside kernels that run, takes most of a second; before any runs, a twentieth. The list, in Triton's cache,
belongs to these sources, this GPU and this model. Imported on CUDA only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.runtime import JITFunction, driver

log = logging.getLogger(__name__)

MOST_THREADS = 32
"""Each runs processes of its own, and the tasks of a service are limited."""
Launch = Callable[[], None]


def compile_missing(launches: Iterable[Launch], key: str, progress: Callable[[str, float], None]) -> None:
    """Compile what the launches need, and list it, unless that has been done.

    Called in inference mode, while no other thread launches kernels. What fails here is compiled when it is
    launched.

    Args:
        launches: launch kernels, which change nothing if they run.
        key: of the model's sizes and number formats, by which kernels differ.
        progress: gets the stage and the fraction done.
    """
    try:
        listed = _list_of(key)
        if listed.exists():
            return
        kernels = _kernels_of(launches)
        device = torch.cuda.current_device() if torch.cuda.is_available() else None
        if device is not None:
            torch.cuda.current_stream().synchronize()  # what was launched is read by other streams
        threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)
        with ThreadPoolExecutor(threads, "compile", _use, (device,)) as pool:
            locks = {_launcher(data): threading.Lock() for data in kernels.values()}
            tasks = [
                pool.submit(_compile, function, data, locks[_launcher(data)])
                for (function, _), data in kernels.items()
            ]
            for count, task in enumerate(as_completed(tasks), 1):
                task.result()
                progress(f"compiling kernels, {count} of {len(tasks)}", count / len(tasks))
        found = [[function.__module__, function.__name__, data] for (function, _), data in kernels.items()]
        listed.parent.mkdir(parents=True, exist_ok=True)
        unfinished = listed.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(found))
        unfinished.replace(listed)
    except Exception as error:
        log.warning("kernels are not compiled beforehand: %s: %s", type(error).__name__, error)


def load_compiled(key: str, device: torch.device) -> None:
    """Load what `compile_missing` listed; what can't be loaded now is when it is launched.

    A list that can't be used is removed, so that it is made again.
    """
    listed: Path | None = None
    try:
        _use(device.index)
        listed = _list_of(key)
        if listed.exists():
            kernels = json.loads(listed.read_text())
            if not kernels:
                raise ValueError(f"{listed} is empty")
            for module, name, data in kernels:
                _ = getattr(import_module(module), name).preload(data).run
    except Exception as error:
        log.warning("kernels are not loaded beforehand: %s: %s", type(error).__name__, error)
        if listed is not None:
            with suppress(OSError):
                listed.unlink()


def _compile(function: Any, data: str, launcher: threading.Lock) -> None:
    """Compile a kernel, and the C module that launches it, which is made when `run` is first asked for.

    Modules of the same source are made one after the other: each replaces the file of the one before, and
    Python takes a module whose file's inode was another one's for that other one.
    """
    kernel = function.preload(data)
    with launcher:
        _ = kernel.run


def _launcher(data: str) -> tuple[str, ...]:
    """Which arguments are pointers, constants and numbers: the same for launchers of the same source."""
    kinds = {"*": "pointer", "c": "constant"}
    return tuple(kinds.get(str(each)[0], "number") for each in json.loads(data)["signature"].values())


def _kernels_of(launches: Iterable[Launch]) -> dict[tuple[Any, str], str]:
    """What compiles each kernel, by its function and Triton's key; also of those that are loaded."""
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{__package__}.")]
    functions = {
        each for module in modules for each in vars(module).values() if isinstance(each, JITFunction)
    }
    caches = [cache[0] for each in functions for cache in each.device_caches.values()]
    loaded = [dict(cache) for cache in caches]
    for cache in caches:
        cache.clear()
    try:
        return _missing(launches)
    finally:
        for cache, kernels in zip(caches, loaded, strict=True):
            cache.update(kernels)


def _missing(launches: Iterable[Launch]) -> dict[tuple[Any, str], str]:
    """What compiles each kernel, by its function and Triton's key."""
    missing: dict[tuple[Any, str], str] = {}
    thread, before = threading.get_ident(), knobs.runtime.jit_cache_hook

    def note(*, key: str, fn: Any, compile: dict[str, Any], **_: object) -> bool:
        if threading.get_ident() != thread:
            return False
        missing[fn.jit_function, key] = compile["specialization_data"]
        return True  # it is neither compiled nor launched

    knobs.runtime.jit_cache_hook = note
    try:
        for launch in launches:
            launch()
    finally:
        knobs.runtime.jit_cache_hook = before
    return missing


def _use(device: int | None) -> None:
    """Threads compile for their own device."""
    if device is not None:
        torch.cuda.set_device(device)


def _list_of(key: str) -> Path:
    return Path(knobs.cache.dir) / f"stepaudiod-{_digest(key)}.json"


def _digest(key: str) -> str:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    sources = [(file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
    known = (triton.__version__, str(driver.active.get_current_target()), key, sources)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]
