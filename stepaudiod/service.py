"""What the front knows of work: who waits, who is being served, which engine serves them. Knows no HTTP.

A request waits for its turn in one bounded queue, first come, first served, whichever socket it came by.
The worker is spawned for the first of them. A request that is closed, at any point, gives back its place
and stops its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from stepaudiod.config import Limits
from stepaudiod.engines.catalog import Catalog, Choice
from stepaudiod.errors import Busy, EngineUnavailable, Stopping
from stepaudiod.idle import IdleClock
from stepaudiod.speech import EngineDescription, Work
from stepaudiod.worker.process import Audio, Result, WorkerProcess

log = logging.getLogger(__name__)

Spawn = Callable[[], Awaitable[WorkerProcess]]


@dataclass(slots=True)
class Counters:
    """What has been done since the daemon started."""

    served: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    worker_starts: int = 0


class Service:
    """One queue, one worker.

    Args:
        limits: how many may be served and how many may wait.
        catalog: the engines of this installation.
        engine: the configured engine, `auto` or a name.
        idle: told when work begins and ends.
        spawn: starts a worker.
    """

    def __init__(self, limits: Limits, catalog: Catalog, engine: str, idle: IdleClock, spawn: Spawn) -> None:
        self.limits = limits
        self.catalog = catalog
        self.engine = engine
        self.counters = Counters()
        self.worker: WorkerProcess | None = None
        self.is_stopping = False
        self.on_change: Callable[[], None] = lambda: None
        self._idle = idle
        self._spawn = spawn
        self._spawning = asyncio.Lock()
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._typical_s = 1.0

    def choice(self, need: str = "speak") -> Choice:
        """The engine that serves requests which name none.

        Args:
            need: what it must be able to do, see `engines.catalog.can`.

        Raises:
            EngineUnavailable: there is none.
        """
        return self.catalog.choose(self.engine, need)

    @property
    def queued(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Requests that are being worked on."""
        return self._active

    async def run(
        self, engine: EngineDescription, work: Work, format: str | None, request_id: str
    ) -> AsyncIterator[Result]:
        """Do a request's work, from the wait for a turn to the last piece; close the iterator to stop early.

        Args:
            engine: who does it.
            work: what is asked for.
            format: of the audio; None where none comes.
            request_id: for the journal.

        Raises:
            Busy: the queue is full.
            Stopping: the daemon is going away.
            StepaudiodError: whatever the engine has to say of the request, before or between pieces.
        """
        self._idle.begin()
        started = time.monotonic()
        outcome, audio_s, reply = "cancelled", 0.0, None
        try:
            await self._take_turn()
            try:
                worker = await self._ready_worker()
                reply = worker.work(engine, work, format, self.limits.recordings())
                async for piece in reply:
                    audio_s += piece.duration_s if isinstance(piece, Audio) else 0.0
                    yield piece
                outcome = "served"
            finally:
                if reply is not None:
                    reply.close()
                self._end_turn(time.monotonic() - started)
        except Exception as error:
            outcome = "refused" if isinstance(error, Busy) else "failed"
            raise
        finally:
            self._idle.end()
            self._record(outcome, engine, request_id, time.monotonic() - started, audio_s)

    def _record(
        self, outcome: str, engine: EngineDescription, request_id: str, duration_s: float, audio_s: float
    ) -> None:
        """One line a request, with fields for the journal; never the text itself."""
        setattr(self.counters, outcome, getattr(self.counters, outcome) + 1)
        fields = {"REQUEST_ID": request_id, "ENGINE": engine.name, "DURATION_MS": round(duration_s * 1000)}
        log.info(
            "%s %s: %.1f s of speech in %.2f s [%s]",
            engine.name,
            outcome,
            audio_s,
            duration_s,
            request_id,
            extra=fields,
        )
        self.on_change()

    async def _take_turn(self) -> None:
        """Wait for a place among the active requests."""
        if self._active < self.limits.concurrency and not self._waiting:
            self._active += 1
            return
        if len(self._waiting) >= self.limits.max_queue:
            rounds = math.ceil((len(self._waiting) + 1) / self.limits.concurrency)
            retry_after_s = max(1, math.ceil(self._typical_s * rounds))
            raise Busy(
                f"{len(self._waiting)} requests are waiting already. Try again in {retry_after_s} s.",
                retry_after_s,
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            else:
                self._pass_on()
            raise

    def _end_turn(self, duration_s: float) -> None:
        """Give the place to the next in line."""
        self._typical_s += 0.2 * (duration_s - self._typical_s)
        self._pass_on()

    def _pass_on(self) -> None:
        """The first that waits takes over the place; without one it falls free."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._active -= 1

    async def _ready_worker(self) -> WorkerProcess:
        """The worker, started where there is none."""
        async with self._spawning:
            if self.is_stopping:
                raise Stopping(
                    "The daemon is stopping. Connect again: the next connection starts a fresh one."
                )
            if self.worker is None or self.worker.is_lost:
                self.worker = await self._spawn()
                self.worker.watch_changes(self.on_change)
                self.counters.worker_starts += 1
            return self.worker

    async def unload(self, engine: str) -> bool:
        """End the worker that holds this engine, and with it every byte it has.

        Returns:
            Whether there was anything to unload.

        Raises:
            Busy: a request is being served; it is never cut off by this.
        """
        worker = self.worker
        if worker is None or worker.is_lost or not (worker.loading or engine in worker.loaded):
            return False
        if self._active:
            raise Busy("A request is being served by this model. Unload it when that is done.", 1)
        await self.end_worker("is told to unload")
        return True

    async def end_worker(self, reason: str) -> None:
        """End the worker, if there is one; the next request starts another."""
        async with self._spawning:
            worker, self.worker = self.worker, None
            if worker is not None:
                await worker.kill(reason)

    async def close(self) -> None:
        """End the worker for good; what it was doing gets an error."""
        self.is_stopping = True
        await self.end_worker("is told to stop")

    def status(self) -> str:
        """The line `systemctl status` shows: when it sleeps, the engine, what was served."""
        try:
            name = self.choice().engine.name
        except EngineUnavailable:
            name = "no engine is installed"
        worker = self.worker
        if worker is not None and worker.loading:
            name = worker.loading
        served = f"{self.counters.served} request{'' if self.counters.served == 1 else 's'} served"
        return f"{self._state()} · {name} · {served}"

    def _state(self) -> str:
        """Awake or when asleep."""
        if self._active:
            queued = f", {self.queued} waiting" if self._waiting else ""
            return f"speaking to {self._active}{queued}"
        remaining_s = self._idle.remaining_s
        if remaining_s is None:
            return "awake for good"
        step_s = 10 if remaining_s > 10 else 1  # each change is a message to the manager
        return f"asleep in {math.ceil(remaining_s / step_s) * step_s} s"
