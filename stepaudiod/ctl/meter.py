"""How much audio has come, in seconds where the bytes tell it. Knows no codec."""

from __future__ import annotations

PCM_BYTES_PER_S = 24_000 * 2
WAV_HEADER_BYTES = 44
WAV_BYTE_RATE = slice(28, 32)


class Meter:
    """Counts one response.

    Args:
        audio_format: of the bytes to come; only `wav` and `pcm` have a fixed number of bytes a second.
    """

    def __init__(self, audio_format: str) -> None:
        self.size_bytes = 0
        self._format = audio_format
        self._head = b""

    def add(self, data: bytes) -> None:
        """These bytes have come."""
        self.size_bytes += len(data)
        if len(self._head) < WAV_HEADER_BYTES:
            self._head += data[: WAV_HEADER_BYTES - len(self._head)]

    @property
    def duration_s(self) -> float | None:
        """Seconds of sound so far; None where the format doesn't tell."""
        if self._format == "pcm":
            return self.size_bytes / PCM_BYTES_PER_S
        if self._format == "wav" and len(self._head) == WAV_HEADER_BYTES:
            bytes_per_s = int.from_bytes(self._head[WAV_BYTE_RATE], "little")
            return (self.size_bytes - WAV_HEADER_BYTES) / bytes_per_s if bytes_per_s else None
        return None

    def __str__(self) -> str:
        duration_s = self.duration_s
        return (
            f"{self.size_bytes / 1000:.0f} kB of audio"
            if duration_s is None
            else f"{duration_s:.1f} s of audio"
        )
