"""How much audio has come, in seconds where the bytes tell it. Knows no codec."""

from __future__ import annotations

from stepaudiod.ctl.wav import HEAD_BYTES, WavHeader, wav_header

PCM_BYTES_PER_S = 24_000 * 2


class Meter:
    """Counts one response.

    Args:
        audio_format: of the bytes to come; only `wav` and `pcm` have a fixed number of bytes a second.
    """

    def __init__(self, audio_format: str) -> None:
        self.size_bytes = 0
        self._format = audio_format
        self._head = b""
        self._header: WavHeader | None = None

    def add(self, data: bytes) -> None:
        """These bytes have come."""
        self.size_bytes += len(data)
        if self._format == "wav" and self._header is None and len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
            self._header = wav_header(self._head)

    @property
    def duration_s(self) -> float | None:
        """Seconds of sound so far; None where the format doesn't tell."""
        if self._format == "pcm":
            return self.size_bytes / PCM_BYTES_PER_S
        if self._header is None or not self._header.bytes_per_s:
            return None
        return (self.size_bytes - self._header.begin) / self._header.bytes_per_s

    def __str__(self) -> str:
        duration_s = self.duration_s
        return (
            f"{self.size_bytes / 1000:.0f} kB of audio"
            if duration_s is None
            else f"{duration_s:.1f} s of audio"
        )
