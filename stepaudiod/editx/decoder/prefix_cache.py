"""The flow decoder's memory budget: prefilled references, which are cached, and streams.

    │ voice A, 2 streams │ stream │ stream │ voice B, unused │ ······ free ······ │

A stream reserves the most that it may need before it begins, and the prefix of its voice if that is not
cached: so no stream runs out of memory midway. Unused prefixes stay, the least recently used first to be
evicted. Requests wait in a FIFO queue. Independent of codes and sound.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from stepaudiod.editx.codes import GROUP_FRAMES, SECONDS_PER_GROUP
from stepaudiod.editx.decoder.config import FlowCosts
from stepaudiod.editx.decoder.flow import Acoustics, Flow
from stepaudiod.editx.decoder.reference_prefix import ReferencePrefix, prefill
from stepaudiod.editx.lm.admission import AdmissionQueue
from stepaudiod.errors import InvalidRequest

KEPT_BYTES = 500_000_000
"""Size of the unused prefixes that are kept, besides the latest: on a GPU two of 6 s."""


@dataclass(eq=False)
class _Entry:
    """A prefix, computed by the first stream that needs it."""

    acoustics: Acoustics
    size_bytes: int
    users: int = 0
    making: threading.Lock = field(default_factory=threading.Lock)
    made: ReferencePrefix | None = None


class PrefixCache:
    """The prefixes and the memory of all streams.

    All together take up to `size_bytes`, None for no limit, and unused prefixes up to `kept_bytes`; the
    latest used one stays whatever its size.
    """

    def __init__(
        self,
        flow: Flow,
        size_bytes: int | None = None,
        kept_bytes: int = KEPT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flow = flow
        self._costs = FlowCosts.of(flow.config, flow.state_dtype.itemsize)
        self._size_bytes = size_bytes
        self._kept_bytes = kept_bytes
        self._voices: OrderedDict[str, _Entry] = OrderedDict()
        self._own_bytes = 0
        self._queue = AdmissionQueue(clock)
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        return self._own_bytes + sum(voice.size_bytes for voice in self._voices.values())

    def reserve(self, acoustics: Acoustics, frames: int) -> Reservation:
        """Queue for the memory of a stream of up to so many frames at 25 Hz.

        The result is a context manager, which releases it.

        Raises:
            InvalidRequest: it is more than the whole budget.
        """
        reference = acoustics.columns.shape[0]
        voice_bytes = self._costs.prefix_bytes(reference)
        own_bytes = self._costs.stream_bytes(frames)
        if self._size_bytes is not None and voice_bytes + own_bytes > self._size_bytes:
            raise InvalidRequest(
                f"A recording of {_seconds(reference):.0f} s for up to {_seconds(frames):.0f} s of sound "
                f"needs {(voice_bytes + own_bytes) / 1e9:.2f} GB beside the weights, and there are "
                f"{self._size_bytes / 1e9:.2f} GB. Use a shorter recording, say less at a time, or raise "
                "step_audio.gpu_memory.",
                "waveform",
            )
        return Reservation(self, acoustics, voice_bytes, own_bytes)

    def _enter(self, reservation: Reservation) -> None:
        with self._lock:
            self._queue.is_first(reservation)

    def _try_take(self, reservation: Reservation) -> _Entry | None:
        with self._lock:
            if not self._queue.is_first(reservation):
                return None
            voice = self._voices.get(reservation.key)
            needed = reservation.own_bytes + (reservation.voice_bytes if voice is None else 0)
            if not self._evict(needed, reservation.key):
                return None
            if voice is None:
                voice = self._voices[reservation.key] = _Entry(reservation.acoustics, reservation.voice_bytes)
            self._voices.move_to_end(reservation.key)
            voice.users += 1
            self._own_bytes += reservation.own_bytes
            self._queue.leave(reservation)
            return voice

    def _evict(self, needed: int, keep: str) -> bool:
        """Evict unused prefixes but `keep` until `needed` bytes fit; none if that isn't enough."""
        if self._size_bytes is None:
            return True
        idle = [key for key, voice in self._voices.items() if not voice.users and key != keep]
        if self.used_bytes + needed - sum(self._voices[key].size_bytes for key in idle) > self._size_bytes:
            return False
        for key in idle:
            if self.used_bytes + needed <= self._size_bytes:
                break
            del self._voices[key]
        return True

    def _release(self, reservation: Reservation, voice: _Entry | None) -> None:
        with self._lock:
            self._queue.leave(reservation)
            if voice is None:
                return
            self._own_bytes -= reservation.own_bytes
            voice.users -= 1
            idle = {key: each for key, each in self._voices.items() if not each.users}
            unused = sum(each.size_bytes for each in idle.values())
            latest = next(reversed(self._voices))
            for key, each in idle.items():
                if each.made is None or (unused > self._kept_bytes and key != latest):
                    del self._voices[key]
                    unused -= each.size_bytes

    def _prefill(self, voice: _Entry) -> ReferencePrefix:
        with voice.making:
            if voice.made is None:
                voice.made = prefill(self._flow, voice.acoustics)
            return voice.made


class Reservation:
    """A stream's share of the memory, or its position in the queue."""

    def __init__(self, memory: PrefixCache, acoustics: Acoustics, voice_bytes: int, own_bytes: int) -> None:
        self.acoustics, self.voice_bytes, self.own_bytes = acoustics, voice_bytes, own_bytes
        self.key = _key(acoustics)
        self._memory = memory
        self._voice: _Entry | None = None

    def __enter__(self) -> Reservation:
        self._memory._enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory._release(self, self._voice)
        self._voice = None

    def try_take(self) -> ReferencePrefix | None:
        """Reserve the memory and return the prefilled reference; None while other streams hold too much."""
        if self._voice is None:
            self._voice = self._memory._try_take(self)
        return None if self._voice is None else self._memory._prefill(self._voice)


def _key(acoustics: Acoustics) -> str:
    digest = hashlib.sha256()
    for tensor in (acoustics.columns, acoustics.mel, acoustics.embedding):
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _seconds(frames: int) -> float:
    return frames / GROUP_FRAMES * SECONDS_PER_GROUP
