"""The worker's side of the decoders: processes that a recording may crash. Independent of requests.

A decoder reads one recording at a time. The first is started for the first recording and kept; another is
started only where recordings overlap, so that a short one doesn't wait for a long one.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudiod.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from stepaudiod.audio.types import Waveform

log = logging.getLogger(__name__)

KEPT = 2
"""Decoders that are kept when they have nothing to do."""
ATTEMPTS = 2
"""A decoder may also die of other causes than its recording, such as a lack of memory."""
START_S = 60.0
"""How long a decoder may take to load its libraries, on a machine with much else to do."""
WALL_FACTOR = 3
"""How much longer decoding may take where other processes have the processor."""
CANCEL_S = 1.0
"""How long a decoder may take to stop, or to be gone after it has closed its socket."""
MESSAGE_CHARACTERS = 1000
LOOK_S = 0.05
"""How often a waiting request is asked whether it has been cancelled."""


class DecoderLost(Exception):
    """The decoder ended because of a recording, or took too long; the message is the reason, for users."""


class Decoders:
    """Decodes recordings in other processes. Its methods may be called from several threads.

    Args:
        cpu_s, cpu_share: seconds of processor time for one recording: so many, and that share of the longest
            that is allowed. The slowest codecs take a tenth of it.
    """

    def __init__(self, cpu_s: float = 10.0, cpu_share: float = 0.2) -> None:
        self.cpu_s = cpu_s
        self.cpu_share = cpu_share
        self._idle: list[_Decoder] = []
        self._changing = threading.Lock()
        self._is_told = False

    def decode(
        self,
        path: Path,
        limits: dict[str, Any] | None = None,
        param: str = "recording",
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> tuple[Waveform, int]:
        """Read a recording within `audio.decode.Limits`, until `is_unwanted`. Errors name `param`.

        Returns:
            Samples in -1..1, `(samples,)`, and their rate in Hz.

        Raises:
            InvalidRequest: it is not a recording, it has no sound, or it is damaged.
            TooLarge: it is beyond a limit.
        """
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt and is_unwanted():
                break
            decoder = self._take()
            try:
                decoded = decoder.decode(path, limits, param, is_unwanted)
            except DecoderLost as error:
                decoder.end()
                reason = str(error)
                log.warning("the decoder %s; a new one takes its place", reason)
            except BaseException:
                self._give_back(decoder)
                raise
            else:
                self._give_back(decoder)
                return decoded
        raise InvalidRequest(f"The recording is damaged: the decoder {reason}. Send another one.", param)

    def close(self) -> None:
        with self._changing:
            while self._idle:
                self._idle.pop().end()

    def _take(self) -> _Decoder:
        with self._changing:
            if self._idle:
                return self._idle.pop()
        return _Decoder(self.cpu_s, self.cpu_share)

    def _give_back(self, decoder: _Decoder) -> None:
        """Keep it for the next recording, if it is of use."""
        with self._changing:
            self._tell(decoder)
            if decoder.is_free and len(self._idle) < KEPT:
                self._idle.append(decoder)
                return
        decoder.end()

    def _tell(self, decoder: _Decoder) -> None:
        if decoder.sandbox is None or self._is_told:
            return
        self._is_told = True
        if "seccomp" in decoder.sandbox:
            log.debug("recordings are decoded in a process restricted by %s", " and ".join(decoder.sandbox))
        else:
            log.warning(
                "this kernel has no seccomp for the processes that decode recordings: only %s restricts them",
                " and ".join([*decoder.sandbox, "their memory limit"]),
            )


class _Decoder:
    """One process, which reads one recording at a time; the arguments are those of `Decoders`."""

    def __init__(self, cpu_s: float, cpu_share: float) -> None:
        self._cpu_s = cpu_s
        self._cpu_share = cpu_share
        self.sandbox: list[str] | None = None
        """What restricts it, once it has reported that."""
        self.is_free = True
        """Whether it can take another recording."""
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = ("PYTHON", "LD_", "LANG", "LC_")
        environ = {name: value for name, value in os.environ.items() if name.startswith(kept)}
        environ.pop("PYTHONFAULTHANDLER", None)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stepaudiod.worker.decoder_main", "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
            )

    def end(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def decode(
        self, path: Path, limits: dict[str, Any] | None, param: str, is_unwanted: Callable[[], bool]
    ) -> tuple[Waveform, int]:
        """Have one recording read; raises `DecoderLost` if the process is of no use any more."""
        from stepaudiod.audio.decode import MAX_RATE, Limits  # while the process loads the same

        self.is_free = False
        bounds = Limits(**limits or {})
        cpu_s = self._cpu_s + self._cpu_share * bounds.max_seconds
        most = int((bounds.max_seconds + 1) * MAX_RATE)
        samples = os.memfd_create("samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # its size is fixed: the decoder can neither fill the memory nor remove what is read here
            os.ftruncate(samples, most * 4)
            fcntl(samples, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
            with path.open("rb") as recording:
                order = {"limits": asdict(bounds), "param": param, "cpu_s": cpu_s}
                self._send(order, [recording.fileno(), samples])
            if self.sandbox is None:
                self.sandbox = self._receive(START_S, lambda: False)["sandbox"]
            answer = self._receive(WALL_FACTOR * cpu_s, is_unwanted)
            self.is_free = True
            return _result(answer, samples, most, param)
        finally:
            os.close(samples)

    def _send(self, order: dict[str, Any], files: list[int]) -> None:
        try:
            socket.send_fds(self._connection, [json.dumps(order).encode()], files)
        except OSError as error:
            raise DecoderLost(self._ended()) from error

    def _receive(self, within_s: float, is_unwanted: Callable[[], bool]) -> dict[str, Any]:
        from stepaudiod.worker.decoder_main import MESSAGE_BYTES

        deadline = time.monotonic() + within_s
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        is_cancelled = False
        while not poll.poll(LOOK_S * 1000):
            if time.monotonic() > deadline:
                self._process.kill()
                raise DecoderLost("took too long and was ended")
            if not is_cancelled and is_unwanted():
                is_cancelled = True
                self._send({}, [])
                deadline = min(deadline, time.monotonic() + CANCEL_S)
        try:
            answer = json.loads(self._connection.recv(MESSAGE_BYTES) or "null")
        except (OSError, ValueError) as error:
            raise DecoderLost(self._ended()) from error
        if not isinstance(answer, dict):
            raise DecoderLost(self._ended())
        return answer

    def _ended(self) -> str:
        """How the process ended, in words; it closes its socket last."""
        try:
            code = self._process.wait(CANCEL_S)
        except subprocess.TimeoutExpired:
            return "sent an invalid answer"
        if code == -signal.SIGXCPU:
            return "took too much processor time and was ended"
        return f"died on it (signal {-code})" if code < 0 else f"died on it (exit status {code})"


def _result(answer: dict[str, Any], samples: int, most: int, param: str) -> tuple[Waveform, int]:
    """The samples, copied, and their rate. The answer isn't trusted: a wrong one raises `DecoderLost`."""
    import numpy as np

    from stepaudiod.audio.decode import MAX_RATE

    if "error" in answer:
        kind = TooLarge if answer["error"] == "TooLarge" else InvalidRequest
        raise kind(str(answer.get("message"))[:MESSAGE_CHARACTERS], param)
    count, rate = answer.get("samples"), answer.get("rate")
    if not (isinstance(count, int) and isinstance(rate, int) and 0 < count <= most and 0 < rate <= MAX_RATE):
        raise DecoderLost("sent an invalid answer")
    waveform = np.empty(count, np.float32)
    room, at = memoryview(waveform.data).cast("B"), 0
    while at < len(room):  # one call reads at most 2 GiB
        at += os.preadv(samples, [room[at:]], at)
    if not (waveform.min() >= -1.0 and waveform.max() <= 1.0):
        raise DecoderLost("sent invalid samples")
    return waveform, rate
