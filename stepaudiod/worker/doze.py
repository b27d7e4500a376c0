"""Dozing: an idle worker's memory leaves the GPU, and comes back for the next work.

    awake ── doze_after without work ──▶ checkpointing ──▶ dozing ── work ──▶ waiting
      ▲                                                      ▲                │    │
      └───────────────────────── restoring ◀── room on the card ─────────────┘    │
                                                             └── none in time ────┘

A checkpoint that fails leaves the worker awake, and is tried again a few times. A worker that can't be
restored is ended, and its requests start another one. So is a dozing one when the machine is short of memory.
The driver's functions are called by a helper process (`checkpoint.py`). This side of the worker is the
front's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from stepaudiod.broadcast import Broadcast, wait_for
from stepaudiod.counters import Counters
from stepaudiod.errors import GpuFull

log = logging.getLogger(__name__)

CHECKPOINT_S = 60.0
"""How long a checkpoint may take; 8 GB take 5 s where the main memory has room for them."""
RESTORE_S = 30.0
"""How long a restore may take; 8 GB take 2 s. One that fails may also never end."""
LOOK_S = 20.0
"""How long the driver may take to tell a card's free memory."""
ATTEMPTS = 3
"""A checkpoint may also fail because of a graph that is being captured."""
END_S = 5.0
"""How long the end of the helper is waited for."""
ROOM_S = 0.5
"""How often a card without room is looked at: nothing notifies of memory that becomes free."""
PRESSURE_S = 10.0
"""How often the pressure on the main memory is looked at while the worker dozes."""
MOST_PRESSURE = 10.0
"""Percent of the last ten seconds in which some process waited for memory."""
PRESSURE = Path("/proc/pressure/memory")
"""Pressure stall information: the kernel's Documentation/accounting/psi.rst."""


class State(StrEnum):
    AWAKE = "awake"
    CHECKPOINTING = "checkpointing"
    DOZING = "dozing"
    WAITING = "waiting"
    """Dozing, with work, and without room on the card."""
    RESTORING = "restoring"


class Sleeper(Protocol):
    """What dozing needs of a worker: `WorkerProcess`."""

    pid: int
    is_lost: bool
    loaded: dict[str, dict[str, Any]]

    @property
    def quiet_s(self) -> float:
        """Seconds since the last work or loading; 0 while there is some."""

    async def prepare_checkpoint(self) -> dict[str, int]:
        """Bytes on each card, by its UUID."""

    def end_checkpoint(self) -> None:
        """Tell the worker that it is inspected no more."""

    async def kill(self, reason: str) -> None:
        """End it."""


class Doze:
    """One worker's dozing.

    Args:
        after_s: seconds without work until it dozes; None is never.
        room_s: seconds that a request waits for room on the card.
        on_change: called when `state` has changed.
    """

    def __init__(
        self,
        worker: Sleeper,
        after_s: float | None,
        room_s: float,
        counters: Counters,
        on_change: Callable[[], None],
    ) -> None:
        self.state = State.AWAKE
        self._worker = worker
        self._room_s = room_s
        self._counters = counters
        self._on_change = on_change
        self._changes = Broadcast()
        self._helper: _Helper | None = None
        self._waking: asyncio.Task[str] | None = None
        self._may_succeed = True
        """Whether this machine's driver takes checkpoints at all."""
        self._waiting = 0
        """Requests that wait for the restore."""
        self._running = None if after_s is None else asyncio.create_task(self._run(after_s))

    async def wake(self) -> None:
        """Return when the worker can take work, or is lost.

        Raises:
            GpuFull: other processes held the card for the whole time.
        """
        while self.state is not State.AWAKE and not self._worker.is_lost:
            if self._waking is None or self._waking.done():
                self._waking = asyncio.create_task(self._wake())
            self._waiting += 1
            try:
                lack = await asyncio.shield(self._waking)
            finally:
                self._waiting -= 1
            if lack:
                raise GpuFull(f"{lack} Send the request again when they are free, or end what holds them.")

    async def end(self) -> None:
        """The worker is lost: stop waiting for it, and end the helper."""
        self._changes.notify()
        if self._helper is not None:
            await self._helper.end()

    def _set(self, state: State) -> None:
        self.state = state
        self._changes.notify()
        self._on_change()

    async def _run(self, after_s: float) -> None:
        """Doze whenever there was no work for so long."""
        refused: set[str] = set()  # the engines with which it can't; without any there is nothing to take
        failures = 0
        while not self._worker.is_lost:
            change = self._changes.next()
            left_s = after_s - self._worker.quiet_s
            if left_s > 0 or set(self._worker.loaded) == refused:
                await wait_for(change, left_s if left_s > 0 else after_s)
                continue
            held = await self._worker.prepare_checkpoint()
            if self._worker.quiet_s < after_s:  # work has come meanwhile
                self._worker.end_checkpoint()
            elif not (reason := self._obstacle(held) or await self._checkpoint(held)):
                failures = 0
                await self._until_awake()
                await self._end_helper()
            elif not self._worker.is_lost:
                self._worker.end_checkpoint()
                failures = failures + 1 if held and self._may_succeed else ATTEMPTS
                if failures == ATTEMPTS:
                    refused, failures = set(self._worker.loaded), 0
                    # the small voices never use a GPU, so for them this is no news
                    is_news = held or any("device" in about for about in self._worker.loaded.values())
                    level = logging.INFO if is_news else logging.DEBUG
                    log.log(level, "worker %d doesn't doze: %s", self._worker.pid, reason)

    def _obstacle(self, held: dict[str, int]) -> str:
        """Why there can be no checkpoint; "" if there is no reason."""
        if not held:
            return "no engine in it uses a GPU"
        needed_bytes, available_bytes = sum(held.values()), _available_bytes()
        if needed_bytes > available_bytes:
            needed, available = needed_bytes / 1e9, available_bytes / 1e9
            return f"dozing needs {needed:.1f} GB of the main memory, and {available:.1f} GB are available"
        return ""

    async def _checkpoint(self, held: dict[str, int]) -> str:
        """Take the worker off the GPU; return why that failed, or ""."""
        started = asyncio.get_running_loop().time()
        self._set(State.CHECKPOINTING)
        try:
            self._helper = await _Helper.start(self._worker.pid, held)
            answer = await self._helper.answer(CHECKPOINT_S)
        except OSError as error:
            answer = {"error": str(error), "is_running": True, "is_supported": True}
        except _HelperLost as error:
            answer = {"error": str(error), "is_running": False, "is_supported": True}
        if "error" not in answer:
            self._counters.checkpoints["done"] += 1
            duration_s = asyncio.get_running_loop().time() - started
            log.info("worker %d dozes: it has left the GPU in %.1f s", self._worker.pid, duration_s)
            self._set(State.DOZING)
            return ""
        await self._end_helper()
        self._may_succeed = answer["is_supported"]
        if self._may_succeed and not self._worker.is_lost:
            self._counters.checkpoints["failed"] += 1
        if not answer["is_running"]:
            await self._worker.kill(f"could not be checkpointed ({answer['error']})")
        self._set(State.AWAKE)
        return str(answer["error"])

    async def _until_awake(self) -> None:
        """Wait for work, or until the machine needs the memory."""
        while self.state is not State.AWAKE and not self._worker.is_lost:
            await wait_for(self._changes.next(), PRESSURE_S)
            if self.state is State.DOZING and not self._waiting and is_short_of_memory():
                await self._worker.kill("dozes, and the machine is short of memory")

    async def _wake(self) -> str:
        """Put the worker back; return what keeps it from that, or ""."""
        while self.state is State.CHECKPOINTING and not self._worker.is_lost:
            await self._changes.next().wait()
        helper = self._helper
        if helper is None or self.state is not State.DOZING:
            return ""
        try:
            if lack := await self._lack_of_room(helper):
                return lack
            if self._waiting and not self._worker.is_lost:
                await self._restore(helper)
            else:
                self._set(State.DOZING)
        except _HelperLost as error:
            if not self._worker.is_lost:
                self._counters.restores["failed"] += 1
                await self._worker.kill(f"could not be restored ({error})")
        return ""

    async def _lack_of_room(self, helper: _Helper) -> str:
        """Wait for room on the card as long as a request does; return what is still missing, or ""."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._room_s
        while lack := str((await helper.ask("room", LOOK_S))["lack"] or ""):
            if self.state is State.DOZING:
                log.warning("worker %d waits for GPU memory. %s", self._worker.pid, lack)
                self._set(State.WAITING)
            if not self._waiting or loop.time() > deadline:
                self._counters.restores["no_room"] += 1
                self._set(State.DOZING)
                break
            await wait_for(self._changes.next(), ROOM_S)
        return lack

    async def _restore(self, helper: _Helper) -> None:
        started = asyncio.get_running_loop().time()
        self._set(State.RESTORING)
        answer = await helper.ask("restore", RESTORE_S)
        if "error" in answer:
            raise _HelperLost(answer["error"])
        duration_s = asyncio.get_running_loop().time() - started
        self._counters.restores["done"] += 1
        self._counters.restore_s += duration_s
        log.info("worker %d is back on the GPU in %.1f s", self._worker.pid, duration_s)
        self._worker.end_checkpoint()
        self._set(State.AWAKE)

    async def _end_helper(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            await helper.end()


class _HelperLost(Exception):
    """The helper ended, took too long, or reports an error; the message is for the journal."""


class _Helper:
    """The process of `checkpoint.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, pid: int, held: dict[str, int]) -> _Helper:
        command = ("-P", "-m", "stepaudiod.worker.checkpoint", "--pid", str(pid), "--cards", json.dumps(held))
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, *command, stdin=pipe, stdout=pipe, env=environ_of_children()
            )
        )

    async def ask(self, command: str, within_s: float) -> dict[str, Any]:
        """Raises `_HelperLost` if no answer comes in time."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        return await self.answer(within_s)

    async def answer(self, within_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
            answer: dict[str, Any] = json.loads(line)
        except TimeoutError:
            raise _HelperLost(f"the driver took more than {within_s:g} s") from None
        except ValueError:
            raise _HelperLost("the helper ended without an answer") from None
        return answer

    async def end(self) -> None:
        """End the process; one that is in the driver may stay for a while."""
        with suppress(ProcessLookupError):
            self._process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._process.wait()


def environ_of_children() -> dict[str, str]:
    """The environment without systemd's notify socket and watchdog, which are the front's alone."""
    systemd = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    return {name: value for name, value in os.environ.items() if name not in systemd}


def is_short_of_memory() -> bool:
    """Whether processes of this machine wait for memory; False where the kernel can't tell."""
    try:
        some = PRESSURE.read_text().split()[1]  # some avg10=0.00 avg60=...
        return float(some.removeprefix("avg10=")) >= MOST_PRESSURE
    except (OSError, ValueError, IndexError):
        return False


def _available_bytes() -> int:
    """The main memory that can be taken without swapping: proc_meminfo(5)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
