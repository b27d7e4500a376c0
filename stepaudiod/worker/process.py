"""The front's side of the worker: start, frames, supervision, end. Independent of engines and of HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stepaudiod import errors
from stepaudiod.counters import Counters
from stepaudiod.errors import EngineError, InvalidRequest, StepaudiodError, WorkerLost
from stepaudiod.requests import Audio, EngineDescription, Result, Work
from stepaudiod.worker import protocol
from stepaudiod.worker.doze import Doze, State, environ_of_children

log = logging.getLogger(__name__)

BEATS_PER_TIMEOUT = 4


class WorkerOptions(NamedTuple):
    """How to start a worker, and when it counts as hung.

    It hangs after `heartbeat_timeout_s` without a heartbeat; with work, also after `stall_timeout_s` without
    progress, or `load_timeout_s` while an engine loads. After `doze_after_s` without work it dozes; None is
    never.
    """

    cache_dir: Path
    threads: int
    log_level: str
    heartbeat_timeout_s: float
    stall_timeout_s: float
    load_timeout_s: float
    doze_after_s: float | None = None


class Reply:
    """What comes back for one request, in order; ends by itself or with an error.

    The worker stops when it is `WINDOW_BYTES` ahead of its credit. `on_change` is called whenever a piece has
    come or has been taken; the owner then decides whether to `credit` what was taken.
    """

    def __init__(self, id: int, worker: WorkerProcess) -> None:
        self.id = id
        self.work_s = 0.0
        """Seconds that the worker spent on it; known at the end."""
        self.is_made = False
        """Whether the worker has nothing more to do for it."""
        self.on_change: Callable[[], None] = lambda: None
        self._worker = worker
        self._items: asyncio.Queue[Result | StepaudiodError | None] = asyncio.Queue()
        self._ahead_bytes = 0
        self._taken_bytes = 0
        self._given_bytes = 0
        """Of the piece that the client is reading."""

    @property
    def is_out_of_credit(self) -> bool:
        """Whether the worker has stopped until it is credited."""
        return self._ahead_bytes >= protocol.WINDOW_BYTES

    @property
    def unread_bytes(self) -> int:
        """Audio that has come and that the client has not taken."""
        return self._ahead_bytes - self._taken_bytes

    @property
    def is_half_read(self) -> bool:
        """Whether at most half a window of its audio waits for the client."""
        return self.unread_bytes <= protocol.WINDOW_BYTES // 2

    def put(self, item: Result | StepaudiodError | None) -> None:
        """The worker's side: a piece, an error, or None at the end."""
        self._items.put_nowait(item)
        if isinstance(item, Audio):
            self._ahead_bytes += len(item.data)
        self.is_made = self.is_made or item is None or isinstance(item, StepaudiodError)
        self.on_change()

    def credit(self) -> None:
        """Let the worker make as much again as the client has taken."""
        if self._taken_bytes:
            self._worker.credit(self.id, self._taken_bytes)
            self._ahead_bytes -= self._taken_bytes
            self._taken_bytes = 0

    async def next(self) -> Result | None:
        """Wait for the next piece; None after the last. The piece before it counts as read by the client."""
        if self._given_bytes:
            self._taken_bytes += self._given_bytes
            self._given_bytes = 0
            self.on_change()
        item = await self._items.get()
        if isinstance(item, StepaudiodError):
            raise item
        if isinstance(item, Audio):
            self._given_bytes = len(item.data)
        return item

    def give_up(self, error: StepaudiodError) -> None:
        """Stop the work; the client gets what has been made, and then the error."""
        self.close()
        self.put(error)

    def close(self) -> None:
        self._worker.cancel(self.id)


class WorkerProcess:
    """One child process with its engines. When it is lost it stays lost, and another takes its place."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        options: WorkerOptions,
        counters: Counters,
    ) -> None:
        self.pid = process.pid
        self.loaded: dict[str, dict[str, Any]] = {}
        """Engines in memory, and what each reports about itself: `load_s` and more."""
        self._loading: dict[str, protocol.EngineLoading] = {}
        self.is_lost = False
        self._process = process
        self._reader = reader
        self._writer = writer
        self._options = options
        self._replies: dict[int, Reply] = {}
        self._next_id = 1
        self._beat = protocol.Heartbeat()
        self._silent_s = self._stalled_s = 0.0
        self._on_change: Callable[[], None] = lambda: None
        self._counters = counters
        self._last_work_s = asyncio.get_running_loop().time()
        self._held: asyncio.Future[dict[str, int]] | None = None
        self.doze = Doze(
            self, options.doze_after_s, options.load_timeout_s, counters, lambda: self._on_change()
        )
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    @classmethod
    async def spawn(cls, options: WorkerOptions, counters: Counters) -> WorkerProcess:
        """Start a worker; it imports its engine when the first request comes."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "stepaudiod.worker.main", "--fd", str(theirs.fileno())]
            command += ["--parent", str(os.getpid()), "--cache-dir", str(options.cache_dir)]
            command += ["--threads", str(options.threads), "--log-level", options.log_level]
            command += ["--beat", str(options.heartbeat_timeout_s / BEATS_PER_TIMEOUT)]
            environ = environ_of_children()
            try:
                process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environ
                )
            except OSError as error:
                ours.close()
                raise EngineError(
                    f"No worker can be started: {error}. The journal has the details."
                ) from error
        reader, writer = await asyncio.open_connection(sock=ours)
        log.info("worker %d started", process.pid)
        counters.worker_starts += 1
        return cls(process, reader, writer, options, counters)

    def watch_changes(self, on_change: Callable[[], None]) -> None:
        """Set what is called when the loaded engines change or the worker is lost."""
        self._on_change = on_change

    def work(
        self, engine: EngineDescription, work: Work, format: str | None, limits: dict[str, float]
    ) -> Reply:
        """Send a request; its results come through the reply. For the arguments see `StartJob`."""
        reply = Reply(self._next_id, self)
        self._next_id += 1
        if self.is_lost:
            reply.put(WorkerLost("The worker has gone. Send the request again."))
            return reply
        self._replies[reply.id] = reply
        order = protocol.StartJob(reply.id, protocol.EngineOrder.of(engine), work, format, limits)
        self._writer.write(protocol.pack(order))
        return reply

    @property
    def quiet_s(self) -> float:
        """Seconds since the last work or loading; 0 while there is some."""
        is_quiet = not self._replies and self.loading is None
        return asyncio.get_running_loop().time() - self._last_work_s if is_quiet else 0.0

    async def prepare_checkpoint(self) -> dict[str, int]:
        """Have the worker get ready to leave the GPU. Returns bytes on each card by its UUID."""
        self._held = asyncio.get_running_loop().create_future()
        self._send(protocol.PrepareCheckpoint())
        return await self._held

    def end_checkpoint(self) -> None:
        """Tell the worker that it has the GPU for itself again."""
        self._silent_s = self._stalled_s = 0.0
        self._last_work_s = asyncio.get_running_loop().time()
        self._send(protocol.EndCheckpoint())

    def load(self, engine: EngineDescription) -> None:
        self._last_work_s = asyncio.get_running_loop().time()
        self._send(protocol.LoadEngine(protocol.EngineOrder.of(engine)))

    def credit(self, id: int, size_bytes: int) -> None:
        """The client has taken that much; the worker may go on."""
        if id in self._replies:
            self._send(protocol.AddCredit(id, size_bytes))

    def cancel(self, id: int) -> None:
        if self._replies.pop(id, None):
            self._last_work_s = asyncio.get_running_loop().time()
            self._send(protocol.CancelJob(id))

    def _send(self, frame: protocol.ToWorker) -> None:
        """Send a frame; they are few and small, so nothing waits for the socket's buffer."""
        if not self.is_lost:
            self._writer.write(protocol.pack(frame))

    async def _read(self) -> None:
        try:
            while True:
                frame = await protocol.read_frame(self._reader)
                self._silent_s = 0.0
                if not isinstance(frame, protocol.Heartbeat | protocol.HeldGpu):
                    self._last_work_s = asyncio.get_running_loop().time()
                match frame:
                    case protocol.Piece(id, result):
                        if reply := self._replies.get(id):
                            reply.put(result)
                    case protocol.JobDone(id, work_s):
                        if reply := self._replies.pop(id, None):
                            reply.work_s = work_s
                            reply.put(None)
                    case protocol.JobFailed(id):
                        if reply := self._replies.pop(id, None):
                            reply.put(_error(frame))
                    case protocol.Heartbeat(progress, is_busy):
                        if progress != self._beat.progress or not is_busy:
                            self._stalled_s = 0.0
                        self._beat = frame
                    case protocol.HeldGpu(cards):
                        if self._held is not None and not self._held.done():
                            self._held.set_result(cards)
                    case _:
                        self._note_engine(frame)
        except (asyncio.IncompleteReadError, OSError):
            pass
        except Exception:
            # a worker whose frames can't be read is of no use, and its requests must not wait for it
            log.exception("worker %d sent a frame that can't be read", self.pid)
        if not self.is_lost:
            self._counters.worker_deaths["died"] += 1
            self._lose(
                "The worker died while it had this request. Send it again: a new worker takes its place."
            )
            self._process.kill()
            log.error("worker %d died (%s)", self.pid, await self._ended())
            await self.doze.end()

    def _note_engine(self, frame: protocol.EngineChange) -> None:
        self._stalled_s = 0.0  # the end of a long load comes before the heartbeat that counts it
        match frame:
            case protocol.EngineLoading(engine):
                self._loading[engine] = frame
            case protocol.EngineLoaded(engine, duration_s, about):
                self._loading.pop(engine, None)
                self.loaded[engine] = {"load_s": round(duration_s, 3), **about}
                self._counters.loaded(engine, duration_s)
                log.info("%s loaded in %.2f s", engine, duration_s)
            case protocol.EngineWarm(engine) if engine in self.loaded:
                self.loaded[engine]["warm"] = True
            case protocol.EngineDropped(engine):
                self._loading.pop(engine, None)
                self._counters.unloads[engine] += self.loaded.pop(engine, None) is not None
        self._on_change()

    @property
    def loading(self) -> protocol.EngineLoading | None:
        """What is being loaded, the first of several; None when nothing is."""
        return next(iter(self._loading.values()), None)

    @property
    def is_working(self) -> bool:
        """Whether it has a request that does not wait for credit."""
        return any(not reply.is_out_of_credit for reply in self._replies.values())

    @property
    def is_busy(self) -> bool:
        """Whether it had work at its last heartbeat."""
        return self._beat.is_busy and not self.is_lost

    @property
    def gpu_memory(self) -> dict[str, int]:
        """`allocated_bytes` and `reserved_bytes` at the last heartbeat, 0 in a doze; empty without a GPU."""
        is_dozing = self.doze.state in (State.DOZING, State.WAITING)
        return dict.fromkeys(self._beat.gpu, 0) if is_dozing else self._beat.gpu

    async def _watch(self) -> None:
        """End a worker that hangs. Time is counted in ticks of the loop, which stop with the front."""
        tick_s = self._options.heartbeat_timeout_s / BEATS_PER_TIMEOUT
        while not self.is_lost:
            await asyncio.sleep(tick_s)
            if self.doze.state is not State.AWAKE:
                continue
            self._silent_s += tick_s
            self._stalled_s += tick_s
            limit_s = self._options.load_timeout_s if self.loading else self._options.stall_timeout_s
            if self._silent_s > self._options.heartbeat_timeout_s:
                await self._give_up(f"gave no sign of life for {self._options.heartbeat_timeout_s:g} s")
            elif self._replies and self._beat.is_busy and self._stalled_s > limit_s:
                await self._give_up(f"made no progress for {limit_s:g} s")

    async def _give_up(self, reason: str) -> None:
        self._counters.worker_deaths["hung"] += 1
        await self.kill(reason)

    async def kill(self, reason: str) -> None:
        """End the process and everything in it; the kernel takes back its memory. Returns when it is gone."""
        if not self.is_lost:
            log.info("worker %d %s: ending it", self.pid, reason)
            self._lose(f"The worker {reason} and was ended while it had this request. Send it again.")
        self._process.kill()
        await self._ended()
        await self.doze.end()

    def _lose(self, message: str) -> None:
        """Mark the worker as gone, and end all of its requests with an error."""
        self.is_lost = True
        self._loading.clear()
        self._counters.unloads.update(list(self.loaded))
        self.loaded.clear()
        self._writer.close()
        if self._held is not None and not self._held.done():
            self._held.set_result({})
        for reply in self._replies.values():
            reply.put(WorkerLost(message))
        self._replies.clear()
        self._on_change()

    async def _ended(self) -> str:
        """Wait for the process to be gone, without blocking the loop: pidfd_open(2). Returns how it ended."""
        if self._process.poll() is None:
            ended = asyncio.Event()
            fd = os.pidfd_open(self.pid)
            loop = asyncio.get_running_loop()
            loop.add_reader(fd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(fd)
                os.close(fd)
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit status {code}"


def _error(failed: protocol.JobFailed) -> StepaudiodError:
    """Make the error that was raised in the worker; an unknown class is an `EngineError`."""
    kind = getattr(errors, failed.error, EngineError)
    if issubclass(kind, InvalidRequest):
        return kind(failed.message, failed.param)
    return kind(failed.message) if issubclass(kind, EngineError) else EngineError(failed.message)
