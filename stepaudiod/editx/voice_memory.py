"""The decoder's memory: prefilled voices, which are kept, and streams.

    │ voice A, 2 streams │ stream │ stream │ voice B, unused │ ······ free ······ │

A stream reserves the most that it may need before it begins, and the memory of its voice if that is not there
yet: so no stream runs out of memory midway. Unused voices stay, and the least recently used one leaves first.
Only counts bytes and keeps references; the decoder computes the voices.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from stepaudiod.editx.codes import GROUP_FRAMES, SECONDS_PER_GROUP
from stepaudiod.editx.decoder.config import FlowCosts
from stepaudiod.editx.decoder.flow import Acoustics
from stepaudiod.editx.decoder.runner import ReferencePrefix
from stepaudiod.errors import InvalidRequest

KEPT_BYTES = 500_000_000
"""Size of the unused voices that are kept, besides the latest: on a GPU two of 6 s."""


@dataclass(eq=False)
class Voice:
    """A voice in the decoder; `prefix` is None until it has been computed."""

    acoustics: Acoustics
    size_bytes: int
    users: int = 0
    prefix: ReferencePrefix | None = None


class VoiceMemory:
    """All voices and streams together take up to `size_bytes`, None for no limit."""

    def __init__(self, costs: FlowCosts, size_bytes: int | None, kept_bytes: int = KEPT_BYTES) -> None:
        self._costs = costs
        self._size_bytes = size_bytes
        self._kept_bytes = kept_bytes
        self._voices: OrderedDict[str, Voice] = OrderedDict()
        self._streams_bytes = 0

    @property
    def used_bytes(self) -> int:
        return self._streams_bytes + sum(voice.size_bytes for voice in self._voices.values())

    def check(self, acoustics: Acoustics, frames: int) -> None:
        """Check a stream of up to so many frames at 25 Hz against the whole memory.

        Raises:
            InvalidRequest: it can never fit.
        """
        reference = acoustics.columns.shape[0]
        needed = self._costs.prefix_bytes(reference) + self._costs.stream_bytes(frames)
        if self._size_bytes is not None and needed > self._size_bytes:
            raise InvalidRequest(
                f"A recording of {_seconds(reference):.0f} s for up to {_seconds(frames):.0f} s of sound "
                f"needs {needed / 1e9:.2f} GB beside the weights, and there are "
                f"{self._size_bytes / 1e9:.2f} GB. Use a shorter recording, say less at a time, or raise "
                "step_audio.gpu_memory.",
                "waveform",
            )

    def reserve(self, acoustics: Acoustics, frames: int) -> Voice | None:
        """Reserve a stream and its voice; None while other streams hold too much."""
        key = acoustics.key
        voice = self._voices.get(key)
        own = self._costs.stream_bytes(frames)
        size = self._costs.prefix_bytes(acoustics.columns.shape[0])
        if not self._evict(own + (size if voice is None else 0), key):
            return None
        if voice is None:
            voice = self._voices[key] = Voice(acoustics, size)
        self._voices.move_to_end(key)
        voice.users += 1
        self._streams_bytes += own
        return voice

    def release(self, voice: Voice, frames: int) -> None:
        """Release a stream. Its voice stays if it has been computed and there is room for unused ones."""
        self._streams_bytes -= self._costs.stream_bytes(frames)
        voice.users -= 1
        idle = {key: each for key, each in self._voices.items() if not each.users}
        unused = sum(each.size_bytes for each in idle.values())
        latest = next(reversed(self._voices))
        for key, each in idle.items():
            if each.prefix is None or (unused > self._kept_bytes and key != latest):
                del self._voices[key]
                unused -= each.size_bytes

    def drop_unused(self) -> bool:
        """Forget the voices that no stream uses; whether there were any."""
        unused = [key for key, voice in self._voices.items() if not voice.users]
        for key in unused:
            del self._voices[key]
        return bool(unused)

    def _evict(self, needed: int, keep: str) -> bool:
        """Evict unused voices but `keep` until `needed` bytes fit; none if that isn't enough."""
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


def _seconds(frames: int) -> float:
    return frames / GROUP_FRAMES * SECONDS_PER_GROUP
