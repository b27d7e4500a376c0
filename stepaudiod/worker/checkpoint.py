"""The checkpoint helper: has the driver take a worker's memory off the GPU, and put it back.

    python -m stepaudiod.worker.checkpoint --pid 4711 --cards '{"GPU-...": 7500000000}'

The driver's functions are called from another process than the worker, which has to load the driver, as the
front must not. The helper takes the checkpoint at once and lives until the restore, which begins sooner in a
process that has initialised the driver. It makes no CUDA context, so it holds no GPU memory.

Each line of its input is a command, and each of its answers is one line of JSON:

    (none, at the start)  {}: the cards are free; {"error": ..., "is_running": ..., "is_supported": ...}
    room                  {"lack": ...}: which card has too little memory and what holds it; or null
    restore               {}: the worker runs; {"error": ...}: it never will

It ends with its input, or after an error or the restore. Independent of requests and of engines.

Source: CUDA Driver API, "CUDA Checkpointing".
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from contextlib import suppress
from typing import Any

from stepaudiod.nvml import Card, Nvml

LIBRARY = "libcuda.so.1"
LOCK_MS = 5000
"""How long the work that the worker has given to the GPU may take to end."""
ARGUMENT_BYTES = 64
"""The size of every structure of arguments; unused bytes must be zero."""
NOT_SUPPORTED = 801
"""CUDA_ERROR_NOT_SUPPORTED."""
RUNNING = 0
"""CU_PROCESS_STATE_RUNNING."""


class DriverError(Exception):
    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Unsupported(DriverError):
    """This machine can't checkpoint any process."""


class Checkpoint:
    """One process that may be taken off its cards.

    Args:
        pid: the process.
        held: the bytes that its allocator holds on each card, by the card's UUID.
    """

    def __init__(self, pid: int, held: dict[str, int]) -> None:
        self._pid = ctypes.c_int(pid)
        self._needed = held
        self._nvml: Nvml | None = None
        with suppress(OSError):  # without it the memory can't be looked at before the restore
            self._nvml = Nvml()
        try:
            self._driver = ctypes.CDLL(LIBRARY)
            self._call("cuInit", ctypes.c_uint(0))
        except (OSError, DriverError) as error:
            raise Unsupported(f"the driver can't be used: {error}") from error
        if not hasattr(self._driver, "cuCheckpointProcessLock"):
            raise Unsupported("the driver is older than 570, the first that checkpoints processes")
        if any(card.has_mig for card in self._cards()):
            raise Unsupported("the GPU is divided (MIG)")

    def take(self) -> None:
        """Take the process off its cards. After an error `is_running` says whether it still works."""
        before = {card.uuid: card.free_bytes for card in self._cards()}
        lock = ctypes.create_string_buffer(ARGUMENT_BYTES)
        ctypes.c_uint.from_buffer(lock).value = LOCK_MS
        try:
            self._call("cuCheckpointProcessLock", self._pid, lock)
            self._call("cuCheckpointProcessCheckpoint", self._pid, None)
        except DriverError as error:
            with suppress(DriverError):
                self._call("cuCheckpointProcessUnlock", self._pid, None)
            if error.code == NOT_SUPPORTED:
                raise Unsupported(f"the driver doesn't support it here: {error}") from error
            raise
        for card in self._cards():  # beside what the allocator holds there are a context and its kernels
            freed_bytes = card.free_bytes - before.get(card.uuid, card.free_bytes)
            self._needed[card.uuid] = max(self._needed[card.uuid], freed_bytes)

    def restore(self) -> None:
        self._call("cuCheckpointProcessRestore", self._pid, None)
        self._call("cuCheckpointProcessUnlock", self._pid, None)

    @property
    def is_running(self) -> bool:
        state = ctypes.c_int(-1)
        with suppress(DriverError):
            self._call("cuCheckpointProcessGetState", self._pid, ctypes.byref(state))
        return state.value == RUNNING

    def lack(self) -> str | None:
        """The card that has too little free memory for the restore, and what holds it; None if all have."""
        for card in self._cards():
            needed_bytes = self._needed[card.uuid]
            if self._nvml is not None and card.free_bytes < needed_bytes:
                holders = "; ".join(map(str, self._nvml.holders(card))) or "other processes hold the rest"
                return (
                    f"The model needs {needed_bytes / 1e9:.1f} GB of the GPU {card.name}, and "
                    f"{card.free_bytes / 1e9:.1f} of {card.total_bytes / 1e9:.1f} GB are free: {holders}."
                )
        return None

    def _cards(self) -> list[Card]:
        """The process's cards; none if the management library can't tell.

        A part of a divided card has a UUID of its own, so it stands for all divided cards.
        """
        try:
            cards = [] if self._nvml is None else self._nvml.cards()
        except OSError:
            return []
        return [c for c in cards if c.uuid in self._needed] or [c for c in cards if c.has_mig]

    def _call(self, function: str, *arguments: Any) -> None:
        if code := getattr(self._driver, function)(*arguments):
            name = ctypes.c_char_p()
            self._driver.cuGetErrorName(code, ctypes.byref(name))
            raise DriverError(f"{function}: {(name.value or b'error %d' % code).decode()}", code)


def _answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def serve(pid: int, held: dict[str, int]) -> None:
    """Take the checkpoint, and carry out commands until the process is restored or not wanted any more."""
    checkpoint = None
    try:
        checkpoint = Checkpoint(pid, held)
        checkpoint.take()
    except DriverError as error:
        is_running = checkpoint is None or checkpoint.is_running
        is_supported = not isinstance(error, Unsupported)
        _answer({"error": str(error), "is_running": is_running, "is_supported": is_supported})
        return
    _answer({})
    for line in sys.stdin:
        if line == "room\n":
            _answer({"lack": checkpoint.lack()})
            continue
        try:
            checkpoint.restore()
        except DriverError as error:
            _answer({"error": str(error)})
        else:
            _answer({})
        return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--cards", type=json.loads, required=True)
    options = parser.parse_args()
    serve(options.pid, options.cards)


if __name__ == "__main__":
    main()
