"""Runs requests: the wait for a turn, the worker, a second try, the record. Independent of HTTP.

A request waits for its turn (`fair_queue.py`), whichever socket it came by. The worker is spawned for the
first request. A request whose client does not read gives its turn back until the client reads on. A request
that is closed, at any point, gives back its turn and stops its work.

A worker that dies fails all its requests, and one of them may be the cause. Those without any sound yet are
tried once more, one after the other: each has a worker of its own until its first sound, and all others wait
until then. Those that have sound already get no more credit meanwhile. So only the cause fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from stepaudiod.active_request import ActiveRequest
from stepaudiod.broadcast import Broadcast
from stepaudiod.config import Limits, Timeouts
from stepaudiod.counters import Counters
from stepaudiod.engines.registry import Catalog, Choice
from stepaudiod.errors import Busy, EngineUnavailable, StepaudiodError, Stopping, TookTooLong, WorkerLost
from stepaudiod.fair_queue import FairQueue, Turn
from stepaudiod.idle import IdleClock
from stepaudiod.requests import EngineDescription, Result, Work

if TYPE_CHECKING:
    from stepaudiod.worker.process import Reply, WorkerProcess  # imported with the first worker

log = logging.getLogger(__name__)

WAKING = {
    "checkpointing": "is leaving the GPU, and will be restored",
    "waiting": "waits for GPU memory",
    "restoring": "is being restored",
}
"""What requests wait for, by the worker's state."""

Spawn = Callable[[Counters], "Awaitable[WorkerProcess]"]


class Dispatcher:
    """One queue, one worker. The engine is `auto` or a name."""

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
        """Notified when the status or the worker changes."""
        self._idle = idle
        self._spawn = spawn
        self._spawning = asyncio.Lock()
        self._turns = FairQueue(limits)
        self._active = 0
        self._paused: dict[Turn, Reply] = {}
        """Requests that gave their turn back because their client does not read, the longest paused first."""
        self._typical_s = 1.0
        self._retries: deque[ActiveRequest] = deque()
        """Requests that are tried again and have no sound yet; the first of them is at work."""
        self._retried = asyncio.Event()
        self._replies: set[Reply] = set()
        """Of the requests that have been sent to a worker."""

    def reconfigure(self, limits: Limits, timeouts: Timeouts) -> None:
        self.limits = limits
        self.timeouts = timeouts
        self._turns.reconfigure(limits)

    def choice(self, need: str = "speak", caller: str = "") -> Choice:
        """The engine for requests that name none, with the ability `need` (`engines.registry.can`).

        Raises:
            EngineUnavailable: there is none.
        """
        return self.catalog.seen_by(caller).choose(self.engine, need)

    @property
    def queued(self) -> int:
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
        """Yield a request's results as they are made; close the iterator to stop early.

        Args:
            engine: the engine that does the work.
            work: what to do.
            format: of the audio; None for a transcription.
            request_id: for the journal.
            caller: the name of its API key, for the journal; "" where it needed none.
            share: the name under which the caller's share of turns is counted.

        Raises:
            Busy: the queue is full.
            Stopping: the daemon is stopping.
            TookTooLong: it is not done after `timeouts.request`.
            StepaudiodError: the engine's error, before or between pieces.
        """
        deadline = asyncio.get_running_loop().time() + self.timeouts.request
        request = ActiveRequest(engine, work, format, request_id, caller, Turn(share), deadline)
        with self._recorded(request):
            await self._take_turn(request)
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        if request.reply is None:
                            worker = await self._free_worker(request)
                            reply = worker.work(engine, work, format, self.limits.recordings())
                            self._follow(request, reply)
                        assert request.reply is not None
                        piece = await request.reply.next()
                except WorkerLost as error:
                    self._prepare_retry(request, error)
                    continue
                if piece is None:
                    break
                request.note(piece)
                if request.has_begun:
                    self._end_retry(request)
                yield piece

    @contextlib.contextmanager
    def _recorded(self, request: ActiveRequest) -> Iterator[None]:
        """Count a request as active, and record how it ended."""
        self._idle.begin()
        try:
            yield
            request.outcome = "served"
            if request.audio_s and request.reply is not None:
                factors = self.counters.real_time_factor[request.engine.name]
                factors.observe(request.reply.work_s / request.audio_s)
        except TimeoutError:
            request.outcome = "failed"
            raise TookTooLong(
                f"The request wasn't done after {self.timeouts.request:g} s (timeouts.request). Send less."
            ) from None
        except Exception as error:
            request.outcome = "refused" if isinstance(error, Busy) else "failed"
            raise
        finally:
            if request.is_started:
                self._drop_reply(request)
                self._end_retry(request)
                self._active -= 1
                self._end_turn(request)
            self._idle.end()
            request.record(self.counters)
            self.changes.notify()

    async def _take_turn(self, request: ActiveRequest) -> None:
        if self._turns.is_full(request.turn.caller):
            raise self._busy()
        async with asyncio.timeout_at(request.deadline):
            await self._turns.take(request.turn)
        request.is_started = True
        self._active += 1
        self.changes.notify()

    async def _free_worker(self, request: ActiveRequest) -> WorkerProcess:
        """Wait until the request may go to the worker; there may be another by then."""
        worker = await self._ready_worker()
        while not self._may_join(request, worker):
            await self._retried.wait()
            worker = await self._ready_worker()
        return worker

    def _follow(self, request: ActiveRequest, reply: Reply) -> None:
        reply.on_change = functools.partial(self._settle, request, reply)
        request.reply = reply
        self._replies.add(reply)

    def _drop_reply(self, request: ActiveRequest) -> None:
        reply, request.reply = request.reply, None
        if reply is None:
            return
        self._replies.discard(reply)
        reply.on_change = lambda: None
        self._paused.pop(request.turn, None)
        reply.close()
        self._look_again()

    def _prepare_retry(self, request: ActiveRequest, error: WorkerLost) -> None:
        """Queue a request for its second try; if it has sent something or was retried, raise the error."""
        self._drop_reply(request)
        if request.has_begun:
            raise error
        if request in self._retries:
            raise WorkerLost(
                f"The request was tried twice, the second time with no other beside it. {error} "
                "If it happens again, the request is the cause: the journal has the details."
            ) from error
        log.warning("a request is tried once again, alone [%s]: %s", request.request_id, error)
        self._retries.append(request)

    def _may_join(self, request: ActiveRequest, worker: WorkerProcess) -> bool:
        """Whether a request may go to the worker now: nothing runs beside one that is tried again."""
        if request in self._retries:
            return self._retries[0] is request and not worker.is_working
        return not self._retries

    def _end_retry(self, request: ActiveRequest) -> None:
        """A request that was tried again has sound, or has ended: the others may go on."""
        if request in self._retries:
            self._retries.remove(request)
            self._look_again()
            if not self._retries:
                for reply in list(self._replies):
                    reply.on_change()  # it may have waited for credit

    def _look_again(self) -> None:
        """Let the requests that wait for a worker check again whether they may be sent to it."""
        self._retried.set()
        self._retried = asyncio.Event()

    def _settle(self, request: ActiveRequest, reply: Reply) -> None:
        """Keep a request's turn, its credit and its client's reading in step."""
        turn, turns = request.turn, self._turns
        if reply.is_made:
            self._paused.pop(turn, None)
            if reply.unread_bytes:  # otherwise the request ends at once, or is tried again
                self._end_turn(request)
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
            turns.ask(turn, functools.partial(self._settle, request, reply))
        elif turn not in self._paused:
            self._paused[turn] = reply
            self._keep_paused_few()

    def _keep_paused_few(self) -> None:
        """Each paused request holds memory here and in the worker: beyond the limit, end one."""
        if len(self._paused) <= self.limits.max_paused:
            return
        callers = Counter(turn.caller for turn in self._paused)
        turn = max(self._paused, key=lambda each: callers[each.caller])
        log.warning("%d clients do not read: cutting off the oldest response", len(self._paused))
        self._paused.pop(turn).give_up(
            Busy("The client did not read, and other requests need the memory. Read faster, or retry.", 1)
        )

    def _busy(self) -> Busy:
        """The error for a request that may not even wait."""
        rounds = math.ceil((self.queued + 1) / self.limits.concurrency)
        retry_after_s = max(1, math.ceil(self._typical_s * rounds))
        return Busy(
            f"{self.queued} requests are waiting already. Try again in {retry_after_s} s.", retry_after_s
        )

    def _end_turn(self, request: ActiveRequest) -> None:
        if not request.is_finished:
            request.is_finished = True
            self._typical_s += 0.2 * (request.duration_s - self._typical_s)
        self._turns.drop(request.turn)

    async def _ready_worker(self) -> WorkerProcess:
        """A worker that can take work now: started, or restored if it dozes.

        Raises:
            Stopping: the daemon is stopping.
            GpuFull: there is no room to restore it.
        """
        while True:
            async with self._spawning:
                if self.is_stopping:
                    raise Stopping(
                        "The daemon is stopping. Connect again: the next connection starts a fresh one."
                    )
                if self.worker is None or self.worker.is_lost:
                    self.worker = await self._spawn(self.counters)
                    self.worker.watch_changes(self.changes.notify)
                worker = self.worker
            await worker.doze.wake()
            if not worker.is_lost:
                return worker

    async def preload(self) -> None:
        """Load the engine that serves, before any request. This is no work: the idle clock runs on."""
        if self.worker is not None and not self.worker.is_lost:
            return
        try:
            engine = self.choice().engine
            (await self._ready_worker()).load(engine)
        except StepaudiodError as error:
            log.info("nothing is loaded beforehand: %s", error)

    async def unload(self, engine: str) -> bool:
        """End the worker that has loaded this engine; return whether there was one.

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
        """End the worker permanently; its requests end with an error."""
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
        elif self._active and self.worker_state in WAKING:
            name = f"{name} {WAKING[self.worker_state]}"
        served = self.counters.ended("served")
        return f"{self._state()} · {name} · {served} request{'' if served == 1 else 's'} served"

    def _state(self) -> str:
        if self._active:
            queued = f", {self.queued} waiting" if self.queued else ""
            return f"speaking to {self._active}{queued}"
        remaining_s = self._idle.remaining_s
        if remaining_s is None:
            return "dozing" if self.is_dozing else "awake for good"
        step_s = 10 if remaining_s > 10 else 1  # each change is a message to the manager
        return f"{'dozing, ' * self.is_dozing}asleep in {math.ceil(remaining_s / step_s) * step_s} s"

    @property
    def worker_state(self) -> str:
        """`none`, or one of `worker.doze.State`."""
        return "none" if self.worker is None or self.worker.is_lost else str(self.worker.doze.state)

    @property
    def is_dozing(self) -> bool:
        """Whether there is a worker whose memory is not on the GPU."""
        return self.worker_state in ("dozing", "waiting", "restoring")
