"""Encodes float samples as a stream of bytes, in the six formats of `formats.py`. Independent of the engines.

The bytes are available as early as the codec allows: nothing is rewritten at the end.

    waveform ──► pcm, wav: rounded to 16 bit here
             └─► mp3 (LAME), opus (Ogg, 48 kHz), aac (ADTS), flac: PyAV, imported at the first use
"""

from __future__ import annotations

import secrets
import struct
from fractions import Fraction
from io import RawIOBase
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stepaudiod.audio.ai_marking import Mark
from stepaudiod.audio.formats import MEDIA_TYPES, UNKNOWN_WAV_SIZE
from stepaudiod.audio.resample import Resampler
from stepaudiod.audio.types import Waveform
from stepaudiod.errors import InvalidRequest

PCM_RATE = 24_000

OGG_PAGE_US = "60000"
"""Microseconds of audio in an Ogg page. The default, a second, would delay the first sound."""


class Encoder(Protocol):
    def encode(self, waveform: Waveform) -> bytes:
        """Encode samples in -1..1, `(samples,)`; returns the bytes that are ready."""

    def finish(self) -> bytes:
        """Return the rest. A stream without samples is a valid, silent file."""


def make_encoder(
    response_format: str, sample_rate: int, mark: Mark | None = None, serial: int | None = None
) -> Encoder:
    """An encoder for one response, of a format in `MEDIA_TYPES`.

    Without a `mark`, none is put in the first bytes. `serial` has 31 bits that identify an Ogg stream, so
    that two of them may be joined; None draws them.

    Raises:
        InvalidRequest: there is no such format.
    """
    match response_format:
        case "pcm":
            return PcmEncoder(sample_rate)
        case "wav":
            return WavEncoder(sample_rate, mark)
        case "mp3" | "opus" | "aac" | "flac":
            return CodecEncoder(response_format, sample_rate, mark, serial)
    raise InvalidRequest(
        f"There is no format {response_format!r}. Formats here: {', '.join(MEDIA_TYPES)}.", "response_format"
    )


def to_pcm16(waveform: Waveform) -> NDArray[np.int16]:
    """Round to 16 bit; values beyond full scale are clipped, and NaN becomes 0."""
    finite = np.nan_to_num(waveform, nan=0.0, posinf=1.0, neginf=-1.0)
    pcm: NDArray[np.int16] = np.rint(np.clip(finite, -1.0, 1.0) * 32767.0).astype("<i2")
    return pcm


class WavEncoder:
    """16-bit mono WAV whose header says "length unknown".

    The mark is a `LIST` chunk before the samples: after them it would have to wait for the end.
    """

    def __init__(self, sample_rate: int, mark: Mark | None = None) -> None:
        block = 2
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, sample_rate * block, block, 16)
        marks = b"" if mark is None else mark.riff_list()
        riff = struct.pack("<4sI4s", b"RIFF", UNKNOWN_WAV_SIZE, b"WAVE")
        data = struct.pack("<4sI", b"data", UNKNOWN_WAV_SIZE)
        self._header = riff + form + marks + data

    def encode(self, waveform: Waveform) -> bytes:
        header, self._header = self._header, b""
        return header + to_pcm16(waveform).tobytes()

    def finish(self) -> bytes:
        return self.encode(np.zeros(0, np.float32))


class PcmEncoder:
    """Raw 16-bit little-endian samples, resampled to 24 kHz."""

    def __init__(self, sample_rate: int) -> None:
        self._resample = None if sample_rate == PCM_RATE else Resampler(sample_rate, PCM_RATE)

    def encode(self, waveform: Waveform) -> bytes:
        if self._resample is not None:
            waveform = self._resample(waveform)
        return to_pcm16(waveform).tobytes()

    def finish(self) -> bytes:
        return b"" if self._resample is None else to_pcm16(self._resample(None)).tobytes()


class _Sink(RawIOBase):
    """The muxer's output: a pipe that can't seek."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


# format: (container, codec, bits/s or None, sample rate or None for the engine's own, muxer options)
_CODECS: dict[str, tuple[str, str, int | None, int | None, dict[str, str]]] = {
    "mp3": ("mp3", "libmp3lame", 96_000, None, {"write_xing": "0", "id3v2_version": "0"}),
    "opus": ("ogg", "libopus", 48_000, 48_000, {"page_duration": OGG_PAGE_US}),
    "aac": ("adts", "aac", 96_000, None, {}),
    "flac": ("flac", "flac", None, None, {}),
}


class CodecEncoder:
    """mp3, opus, aac and flac through PyAV.

    The mark is in Vorbis comments of opus and flac, and in an ID3 tag before mp3; aac as ADTS has no place
    for it.
    """

    def __init__(
        self, response_format: str, sample_rate: int, mark: Mark | None = None, serial: int | None = None
    ) -> None:
        import av

        container, codec, bit_rate, rate, options = _CODECS[response_format]
        self._frame: Any = av.AudioFrame
        self._source_rate = sample_rate
        self._samples = 0
        self._sink = _Sink()
        # bitexact: no random stream number and no version of FFmpeg in the bytes
        options = {"fflags": "+flush_packets+bitexact", **options}
        if response_format == "opus":
            options["serial_offset"] = str(secrets.randbits(31) if serial is None else serial)
        self._container = av.open(self._sink, "w", format=container, container_options=options)
        if mark is not None and response_format == "mp3":
            self._sink.write(mark.id3())  # FFmpeg's tag has no COMM frame, which players show
        elif mark is not None:
            self._container.metadata.update(mark.fields())
        stream: Any = self._container.add_stream(codec, rate=rate or sample_rate, layout="mono")
        if bit_rate:
            stream.bit_rate = bit_rate
        self._stream = stream

    def encode(self, waveform: Waveform) -> bytes:
        if waveform.size == 0:
            return b""
        # 16 bit, so that flac is 16 bit too and every format has the same rounding
        frame = self._frame.from_ndarray(to_pcm16(waveform).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._source_rate
        frame.time_base = Fraction(1, self._source_rate)
        frame.pts = self._samples
        self._samples += waveform.size
        self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        if self._samples == 0:
            self.encode(np.zeros(self._source_rate // 50, np.float32))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()

    def close(self) -> None:
        """End the threads that FFmpeg has for each encoder; else they stay until a garbage collection."""
        self._container.close()
