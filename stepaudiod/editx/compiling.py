"""Compiles a GPU's kernels before the first request, by several threads.

    launch everything ──▶ Triton tells which kernels it lacks, and launches none ──▶ threads compile those

One after the other, as they are first launched, takes most of a minute. A file in Triton's cache says that it
has been done for these sources, this GPU and this model. Imported on CUDA only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.runtime import driver

log = logging.getLogger(__name__)

MOST_THREADS = 32
"""Each runs processes of its own, and the tasks of a service are limited."""
Launch = Callable[[], None]


def compile_missing(launches: Iterable[Launch], model: str, progress: Callable[[str, float], None]) -> None:
    """Compile what the launches need, unless that has been done.

    Called in inference mode, while no other thread launches kernels. What fails here is compiled when it is
    launched.

    Args:
        launches: launch kernels, which change nothing if they run.
        model: its sizes and dtypes, by which kernels differ.
        progress: gets the stage and the fraction done.
    """
    try:
        done = Path(knobs.cache.dir) / f"stepaudiod-{_digest(model)}"
        if done.exists():
            return
        missing = _missing(launches)
        device = torch.cuda.current_device() if torch.cuda.is_available() else None
        if device is not None:
            torch.cuda.current_stream().synchronize()  # what was launched is read by other streams
        threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)
        with ThreadPoolExecutor(threads, "compile", _use, (device,)) as pool:
            tasks = [pool.submit(_compile, function, data) for (function, _), data in missing.items()]
            for count, task in enumerate(as_completed(tasks), 1):
                task.result()
                progress(f"compiling kernels, {count} of {len(tasks)}", count / len(tasks))
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
    except Exception as error:
        log.warning("kernels are not compiled beforehand: %s: %s", type(error).__name__, error)


def _compile(function: Any, data: str) -> None:
    """Compile a kernel, and the C module that launches it, which is made when `run` is first asked for."""
    _ = function.preload(data).run


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


def _digest(model: str) -> str:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    sources = [(file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
    known = (triton.__version__, str(driver.active.get_current_target()), model, sources)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]
