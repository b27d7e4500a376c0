"""What the front knows of work: who waits, who is being served, which engine serves them. Knows no HTTP.

A request waits for its turn (`turns.py`), whichever socket it came by. The worker is spawned for the first of
them. A request whose client does not read gives its turn back until the client reads on. A request that is
closed, at any point, gives back its place and stops its work.

A worker that dies takes all its requests along, and one of them may be the cause. Those without any sound yet
are tried once again, one after the other: each has a worker for itself until its first sound, and all others
wait that long. Those that have sound already get no more credit meanwhile. So the cause dies alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from stepaudiod.broadcast import Broadcast
from stepaudiod.config import Limits, Timeouts
from stepaudiod.counters import Counters
from stepaudiod.engines.registry import Catalog, Choice
from stepaudiod.errors import Busy, EngineUnavailable, StepaudiodError, Stopping, TookTooLong, WorkerLost
from stepaudiod.fair_queue import FairQueue, Turn
from stepaudiod.idle import IdleClock
from stepaudiod.request_log import RequestLog
from stepaudiod.requests import EngineDescription, Result, Work, kind_of

if TYPE_CHECKING:
    from stepaudiod.worker.process import Reply, WorkerProcess  # imported with the first worker

log = logging.getLogger(__name__)

Spawn = Callable[[Counters], "Awaitable[WorkerProcess]"]


class Dispatcher:
    """One queue, one worker.

    Args:
        limits: how many may be served and how many may wait.
        timeouts: how long one request may take.
        catalog: the engines of this installation.
        engine: the configured engine, `auto` or a name.
        idle: told when work begins and ends.
        spawn: starts a worker.
    """

    def __init__(
        self,
        limits: Limits,
        timeouts: Timeouts,
        catalog: Catalog,
        engine: str,
        idle: IdleClock,
        spawn: Spawn,
    ) -> None:
        self.limits = limits
        self.timeouts = timeouts
        self.catalog = catalog
        self.engine = engine
        self.counters = Counters()
        self.worker: WorkerProcess | None = None
        self.is_stopping = False
        self.changes = Broadcast()
        """Of what `status` and the worker say."""
        self._idle = idle
        self._spawn = spawn
        self._spawning = asyncio.Lock()
        self._turns = FairQueue(limits)
        self._active = 0
        self._paused: dict[Turn, Reply] = {}
        """Requests that gave their turn back because their client does not read, the longest paused first."""
        self._typical_s = 1.0
        self._retries: deque[RequestLog] = deque()
        """Requests that are tried again and have no sound yet; the first of them is at work."""
        self._retried = asyncio.Event()
        self._replies: set[Reply] = set()
        """Of the requests that have been sent to a worker."""

    def reconfigure(self, limits: Limits, timeouts: Timeouts) -> None:
        """Apply other limits; no request loses its place by them."""
        self.limits = limits
        self.timeouts = timeouts
        self._turns.reconfigure(limits)

    def choice(self, need: str = "speak", caller: str = "") -> Choice:
        """The engine that serves requests which name none.

        Args:
            need: what it must be able to do, see `engines.catalog.can`.
            caller: whose voices count, see `Catalog.seen_by`.

        Raises:
            EngineUnavailable: there is none.
        """
        return self.catalog.seen_by(caller).choose(self.engine, need)

    @property
    def queued(self) -> int:
        """Requests that wait for their turn."""
        return self._turns.queued

    @property
    def active(self) -> int:
        """Requests that have been begun, also those whose client does not read."""
        return self._active

    async def run(
        self,
        engine: EngineDescription,
        work: Work,
        format: str | None,
        request_id: str,
        caller: str = "",
        share: str = "",
    ) -> AsyncIterator[Result]:
        """Do a request's work, from the wait for a turn to the last piece; close the iterator to stop early.

        Args:
            engine: who does it.
            work: what is asked for.
            format: of the audio; None where none comes.
            request_id: for the journal.
            caller: whose key it came with, for the journal; "" where it needed none.
            share: the name under which the caller's share of turns is counted.

        Raises:
            Busy: the queue is full.
            Stopping: the daemon is going away.
            TookTooLong: it isn't done after `timeouts.request`.
            StepaudiodError: whatever the engine has to say of the request, before or between pieces.
        """
        self._idle.begin()
        run = RequestLog(engine, kind_of(work), request_id, caller, Turn(share))
        try:
            async with contextlib.aclosing(self._pieces(run, work, format)) as pieces:  # type: ignore[type-var]
                deadline = asyncio.get_running_loop().time() + self.timeouts.request
                while True:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    yield piece
            run.outcome = "served"
        except TimeoutError:
            run.outcome = "failed"
            raise TookTooLong(
                f"The request wasn't done after {self.timeouts.request:g} s (timeouts.request). Send less."
            ) from None
        except Exception as error:
            run.outcome = "refused" if isinstance(error, Busy) else "failed"
            raise
        finally:
            self._idle.end()
            run.record(self.counters)
            self.changes.notify()

    async def _pieces(self, run: RequestLog, work: Work, format: str | None) -> AsyncIterator[Result]:
        """Wait for a turn, and hand on what the worker makes, or a second one if the first is lost early."""
        if self._turns.is_full(run.turn.caller):
            raise self._busy()
        await self._turns.take(run.turn)
        self._active += 1
        self.changes.notify()
        try:
            for is_second in (False, True):
                try:
                    async with contextlib.aclosing(self._attempt(run, work, format)) as pieces:  # type: ignore[type-var]
                        async for piece in pieces:
                            yield piece
                    return
                except WorkerLost as error:
                    if run.has_begun:
                        raise
                    if is_second:
                        raise WorkerLost(
                            f"The request was tried twice, the second time with no other beside it. {error} "
                            "If it happens again, the request is the cause: the journal has the details."
                        ) from error
                    log.warning("a request is tried once again, alone [%s]: %s", run.request_id, error)
                    self._retries.append(run)
        finally:
            self._end_retry(run)
            self._active -= 1
            self._end_turn(run)

    async def _attempt(self, run: RequestLog, work: Work, format: str | None) -> AsyncIterator[Result]:
        """Hand on what one worker makes."""
        worker = await self._ready_worker()
        while not self._may_join(run, worker):
            await self._retried.wait()
            worker = await self._ready_worker()
        reply = worker.work(run.engine, work, format, self.limits.recordings())
        reply.on_change = functools.partial(self._settle, run, reply)
        self._replies.add(reply)
        try:
            async for piece in reply:
                run.take(piece)
                if run.has_begun:
                    self._end_retry(run)
                yield piece
            if run.audio_s:
                factors = self.counters.real_time_factor[run.engine.name]
                factors.observe(reply.work_s / run.audio_s)
        finally:
            self._replies.discard(reply)
            reply.on_change = lambda: None
            self._paused.pop(run.turn, None)
            reply.close()
            self._look_again()

    def _may_join(self, run: RequestLog, worker: WorkerProcess) -> bool:
        """Whether a request may go to the worker now: nothing runs beside one that is tried again."""
        if run in self._retries:
            return self._retries[0] is run and not worker.is_working
        return not self._retries

    def _end_retry(self, run: RequestLog) -> None:
        """A request that was tried again has sound, or has ended: the others may go on."""
        if run in self._retries:
            self._retries.remove(run)
            self._look_again()
            if not self._retries:
                for reply in list(self._replies):
                    reply.on_change()  # it may have waited for credit

    def _look_again(self) -> None:
        """Have the requests that wait for a worker look whether they may go to it."""
        self._retried.set()
        self._retried = asyncio.Event()

    def _settle(self, run: RequestLog, reply: Reply) -> None:
        """Keep a request's turn, its credit and its client's reading in step."""
        turn, turns = run.turn, self._turns
        if reply.is_made:
            self._paused.pop(turn, None)
            if reply.unread_bytes:  # otherwise the request ends at once, or is tried again
                self._end_turn(run)
            self._look_again()
            return
        if self._retries and turns.is_held(turn):
            if reply.is_out_of_credit:
                self._look_again()
            return
        if turns.is_held(turn):
            if not turns.must_yield(turn):
                reply.credit()
            if reply.is_out_of_credit:
                turns.drop(turn)
        if turns.is_held(turn) or turns.is_waiting(turn):
            return
        if reply.is_half_read:
            self._paused.pop(turn, None)
            turns.ask(turn, functools.partial(self._settle, run, reply))
        elif turn not in self._paused:
            self._paused[turn] = reply
            self._keep_paused_few()

    def _keep_paused_few(self) -> None:
        """Each paused request holds memory here and in the worker: beyond the limit, give one up."""
        if len(self._paused) <= self.limits.max_paused:
            return
        callers = Counter(turn.caller for turn in self._paused)
        turn = max(self._paused, key=lambda each: callers[each.caller])
        log.warning("%d clients do not read: giving up the one that has not for longest", len(self._paused))
        self._paused.pop(turn).give_up(
            Busy("The client did not read, and others need the memory. Read faster, or ask again.", 1)
        )

    def _busy(self) -> Busy:
        """The error for a request that may not even wait."""
        rounds = math.ceil((self.queued + 1) / self.limits.concurrency)
        retry_after_s = max(1, math.ceil(self._typical_s * rounds))
        return Busy(
            f"{self.queued} requests are waiting already. Try again in {retry_after_s} s.", retry_after_s
        )

    def _end_turn(self, run: RequestLog) -> None:
        """The worker is done with a request; its turn goes to the next one."""
        if not run.is_finished:
            run.is_finished = True
            self._typical_s += 0.2 * (run.duration_s - self._typical_s)
        self._turns.drop(run.turn)

    async def _ready_worker(self) -> WorkerProcess:
        """The worker, started where there is none."""
        async with self._spawning:
            if self.is_stopping:
                raise Stopping(
                    "The daemon is stopping. Connect again: the next connection starts a fresh one."
                )
            if self.worker is None or self.worker.is_lost:
                self.worker = await self._spawn(self.counters)
                self.worker.watch_changes(self.changes.notify)
            return self.worker

    async def preload(self) -> None:
        """Load the engine that serves before anybody asks for work. It is no work: the idle clock runs on."""
        if self.worker is not None and not self.worker.is_lost:
            return
        try:
            engine = self.choice().engine
            (await self._ready_worker()).load(engine)
        except StepaudiodError as error:
            log.info("nothing is loaded beforehand: %s", error)

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
            name = str(worker.loading)
        served = self.counters.ended("served")
        return f"{self._state()} · {name} · {served} request{'' if served == 1 else 's'} served"

    def _state(self) -> str:
        """Awake or when asleep."""
        if self._active:
            queued = f", {self.queued} waiting" if self.queued else ""
            return f"speaking to {self._active}{queued}"
        remaining_s = self._idle.remaining_s
        if remaining_s is None:
            return "awake for good"
        step_s = 10 if remaining_s > 10 else 1  # each change is a message to the manager
        return f"asleep in {math.ceil(remaining_s / step_s) * step_s} s"
