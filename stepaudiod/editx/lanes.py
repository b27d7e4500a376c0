"""Threads that run the scheduler's work, one task at a time each, with a CUDA stream of their own.

On a GPU the language model and the decoder run beside each other. On a processor they share one thread:
each uses all cores that it may use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch


class Lane:
    """Runs one task at a time; the next one starts when the result of the last one has been collected.

    Where it is synchronous, a task ends when its work on the GPU has ended; else tasks wait for what they
    need.
    """

    def __init__(
        self,
        thread: ThreadPoolExecutor,
        device: torch.device,
        on_done: Callable[[], None],
        is_synchronous: bool,
    ) -> None:
        self._thread, self._is_synchronous = thread, is_synchronous
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._on_done = on_done
        self.running: tuple[Future[Any], Callable[[Future[Any]], None]] | None = None
        """The task, and what gets its future."""
        self.users: Sequence[object] = ()
        """What its task needs, which must not be released before it has ended."""

    @property
    def is_free(self) -> bool:
        return self.running is None

    def start(
        self, task: Callable[[], Any], then: Callable[[Future[Any]], None], users: Sequence[object] = ()
    ) -> None:
        """Run a task; `collect` passes its future to `then`, in the caller's thread."""
        assert self.running is None
        future = self._thread.submit(self._run, task)
        self.running, self.users = (future, then), users
        future.add_done_callback(lambda _: self._on_done())

    def collect(self) -> bool:
        """Pass on the result of the task if it has ended."""
        if self.running is None or not self.running[0].done():
            return False
        (future, then), self.running, self.users = self.running, None, ()
        then(future)
        return True

    def _run(self, task: Callable[[], Any]) -> Any:
        with torch.inference_mode():
            if self._stream is None:
                return task()
            with torch.cuda.stream(self._stream):
                result = task()
                if self._is_synchronous:
                    self._stream.synchronize()  # other streams may use the result
                return result

    def settle(self) -> None:
        """Wait for the running task, and for what tasks have left the GPU to do."""
        if self.running is not None:
            wait([self.running[0]])
        if self._stream is not None:
            self._stream.synchronize()


class Lanes:
    """One lane for the language model, one for the decoder, and one for recordings."""

    def __init__(self, device: torch.device) -> None:
        self._changed = threading.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called, from any thread, when a task has ended or there is work."""
        shared = ThreadPoolExecutor(1, "engine")

        def lane(name: str, is_synchronous: bool = True) -> Lane:
            thread = ThreadPoolExecutor(1, name) if device.type == "cuda" else shared
            return Lane(thread, device, self.notify, is_synchronous)

        # the language model's next codes are being computed while the last ones are looked at
        self.language_model = lane("language", is_synchronous=False)
        self.decoder, self.recordings = lane("decoder"), lane("recordings")
        self._all = (self.language_model, self.decoder, self.recordings)

    def collect(self) -> int:
        """Pass on the results of all tasks that have ended; returns their number."""
        self._changed.clear()
        return sum(lane.collect() for lane in self._all)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until there is something to do since the last `collect`; False if there isn't in time."""
        return self._changed.wait(timeout_s)

    def settle(self) -> None:
        """Wait until the running tasks have ended, and their work on the GPU, without starting others."""
        for lane in self._all:
            lane.settle()

    def notify(self) -> None:
        self._changed.set()
        self.on_change()
