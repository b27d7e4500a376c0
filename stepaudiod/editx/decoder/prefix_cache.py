"""The flow decoder's memory: who has a part of it, and who waits.

    │ voice A, 2 streams │ stream │ stream │ voice B, nobody's │ ······ free ······ │

A stream takes what it may ever need before it begins, and its voice's part if nobody has brought that yet: so
nothing runs out midway. Voices that nobody speaks with stay for the next request, the latest used longest,
until their room is needed. Who came first gets in first, unless they have stopped asking. Knows no codes and
no sound.
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
from stepaudiod.editx.decoder.flow import Acoustics, Flow
from stepaudiod.editx.decoder.reference_prefix import FlowCosts, ReferencePrefix, prefill
from stepaudiod.editx.decoder.streaming import REMEMBERED_FRAMES
from stepaudiod.editx.lm.admission import AdmissionQueue
from stepaudiod.errors import InvalidRequest

KEPT_BYTES = 500_000_000
"""Of voices that nobody speaks with at the moment, but for the latest: on a GPU two of 6 s."""


@dataclass(eq=False)
class _Entry:
    """A reference's part, made by whoever first needs it."""

    acoustics: Acoustics
    size_bytes: int
    users: int = 0
    making: threading.Lock = field(default_factory=threading.Lock)
    made: ReferencePrefix | None = None


class PrefixCache:
    """What the flow decoder keeps between chunks, of all requests together.

    Args:
        flow: the decoder.
        size_bytes: of all; None for whatever there is.
        kept_bytes: of voices that nobody speaks with; the latest used stays whatever its size.
        clock: seconds.
    """

    def __init__(
        self,
        flow: Flow,
        size_bytes: int | None = None,
        kept_bytes: int = KEPT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flow = flow
        self._costs = FlowCosts.of(flow, flow.kept)
        self._size_bytes = size_bytes
        self._kept_bytes = kept_bytes
        self._voices: OrderedDict[str, _Entry] = OrderedDict()
        self._own_bytes = 0
        self._line = AdmissionQueue(clock)
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """What voices and streams take, or may yet."""
        return self._own_bytes + sum(voice.size_bytes for voice in self._voices.values())

    def reserve(self, acoustics: Acoustics, frames: int) -> Reservation:
        """Ask for a stream's memory; use the result in a `with` statement, which gives it back.

        Args:
            acoustics: of the reference.
            frames: at 25 Hz that the stream may have.

        Raises:
            InvalidRequest: there will never be enough.
        """
        reference = acoustics.columns.shape[0]
        voice_bytes = self._costs.prompt_bytes(reference)
        own_bytes = self._costs.stream_bytes(frames, REMEMBERED_FRAMES)
        if self._size_bytes is not None and voice_bytes + own_bytes > self._size_bytes:
            raise InvalidRequest(
                f"A recording of {_seconds(reference):.0f} s for up to {_seconds(frames):.0f} s of sound "
                f"needs {(voice_bytes + own_bytes) / 1e9:.2f} GB beside the weights, and there are "
                f"{self._size_bytes / 1e9:.2f} GB. Take a shorter recording, say less at a time, or raise "
                "step_audio.gpu_memory.",
                "audio",
            )
        return Reservation(self, acoustics, voice_bytes, own_bytes)

    def _enter(self, place: Reservation) -> None:
        with self._lock:
            self._line.ask(place)

    def _try_take(self, place: Reservation) -> _Entry | None:
        with self._lock:
            if not self._line.ask(place):
                return None
            voice = self._voices.get(place.key)
            needed = place.own_bytes + (place.voice_bytes if voice is None else 0)
            if not self._evict(needed, place.key):
                return None
            if voice is None:
                voice = self._voices[place.key] = _Entry(place.acoustics, place.voice_bytes)
            self._voices.move_to_end(place.key)
            voice.users += 1
            self._own_bytes += place.own_bytes
            self._line.leave(place)
            return voice

    def _evict(self, needed: int, keep: str) -> bool:
        """Let go of voices that nobody speaks with, but for one, until there is room; none if it's no use."""
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

    def _release(self, place: Reservation, voice: _Entry | None) -> None:
        with self._lock:
            self._line.leave(place)
            if voice is None:
                return
            self._own_bytes -= place.own_bytes
            voice.users -= 1
            idle = {key: each for key, each in self._voices.items() if not each.users}
            left = sum(each.size_bytes for each in idle.values())
            latest = next(reversed(self._voices))
            for key, each in idle.items():
                if each.made is None or (left > self._kept_bytes and key != latest):
                    del self._voices[key]
                    left -= each.size_bytes

    def _prefill(self, voice: _Entry) -> ReferencePrefix:
        with voice.making:
            if voice.made is None:
                voice.made = prefill(self._flow, voice.acoustics)
            return voice.made


class Reservation:
    """A stream's part of the memory, or its place in the line."""

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
        """Take the memory and give the reference, taken in; None if others have to end first."""
        if self._voice is None:
            self._voice = self._memory._try_take(self)
        return None if self._voice is None else self._memory._prefill(self._voice)


def _key(acoustics: Acoustics) -> str:
    """Name a reference by what it holds."""
    digest = hashlib.sha256()
    for tensor in (acoustics.columns, acoustics.mel, acoustics.embedding):
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _seconds(frames: int) -> float:
    return frames / GROUP_FRAMES * SECONDS_PER_GROUP
