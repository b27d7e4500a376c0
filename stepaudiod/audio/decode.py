"""Decodes recordings in any common container or codec, within limits. Independent of the engines.

The input is untrusted: only demuxers of plain audio and video files may read it (none that opens other files
or addresses, as playlists do), only decoders of audio (a megabyte of cover picture may unpack to a gigabyte),
and the limits are checked while decoding, whatever the header claims. The worker calls this in a process of
its own (`worker/decoder_main.py`), which a fault in FFmpeg may end.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from stepaudiod.audio.types import Waveform
from stepaudiod.errors import InvalidRequest, TooLarge

DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,"
    "mpegts,ogg,opus,rm,tta,voc,w64,wav,wv"
)
"""The demuxers that may read an upload, by FFmpeg's names."""

DECODERS = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,adpcm_yamaha,alac,amrnb,amrwb,ape,cook,eac3,flac,"
    "g722,g726,g726le,gsm,gsm_ms,libopencore_amrnb,libopencore_amrwb,libopus,mp1,mp1float,mp2,mp2float,mp3,mp3float,"
    "nellymoser,opus,pcm_alaw,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,pcm_s24be,"
    "pcm_s24le,pcm_s32be,pcm_s32le,pcm_s8,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,pcm_u32le,pcm_u8,speex,"
    "tta,vorbis,wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice"
)
"""The decoders that may run on an upload; FFmpeg would also decode pictures, for their size."""

MAX_RATE = 48_000
"""Voices have no frequencies above half of it, and memory grows with the rate."""
MAX_STREAMS = 8
MAX_ALLOCATION_BYTES = 64 << 20
"""The largest single allocation of FFmpeg; only compressed metadata and forged tables need more."""

PACKETS_PER_S = 1000
"""The shortest packets of any codec are 2.5 ms long; a forged table may list the same bytes millions of
times."""

DAMAGED_SHARE = 0.1
"""With a larger share of undecodable packets a recording is damaged; good mp3 files have a few."""

CANCELLED_SHARE = 0.25
"""The power of the channels' mean relative to that of unrelated channels, below which the channels cancel
each other out: 1 for unrelated channels, 0 for opposite phases."""

CANCELLED_PART = 0.05
"""The largest part of a recording's power that may be in frames whose channels cancel each other out."""

BLOCK, FRAME = 1 << 16, 1 << 12
"""Samples of each channel that are mixed at a time, and that are tested for cancellation together."""

UNREADABLE = (
    "The recording can't be read: it is empty, damaged, or in a format that is not known here. "
    "Send wav, mp3, flac, ogg, opus, m4a or webm."
)

UNSUPPORTED_PART = (
    "The recording has a part that is not supported here: its channels or its codec change midway, perhaps. "
    "Send one that stays the same."
)

TOO_LITTLE = "The recording is damaged: too little of it can be decoded."


@dataclass(frozen=True, slots=True)
class Limits:
    max_seconds: float = 600.0
    max_channels: int = 8
    max_sample_rate: int = 192_000
    min_sample_rate: int = 4_000


def decode(
    source: bytes | Path,
    limits: Limits | None = None,
    param: str = "recording",
    is_unwanted: Callable[[], bool] = lambda: False,
) -> tuple[Waveform, int]:
    """Decode a recording in this process to samples in -1..1, `(samples,)`, and their rate in Hz.

    See `decode_into`.
    """
    samples = BytesIO()
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        rate = decode_into(file, samples, limits or Limits(), param, is_unwanted)
    return np.frombuffer(samples.getbuffer()[: samples.tell()], np.float32), rate


def decode_into(
    source: BinaryIO, samples: BinaryIO, limits: Limits, param: str, is_unwanted: Callable[[], bool]
) -> int:
    """Decode a recording's first audio stream, mixed to one channel and resampled to 48 kHz at most.

    The mix is the mean of the channels. If they cancel each other out somewhere, as two channels of opposite
    phase do, the channel with the most power is used instead. Float32 samples in -1..1 are written to
    `samples`, whose final position is their size; decoding ends when `is_unwanted` is true.

    Returns:
        The rate in Hz.

    Raises:
        InvalidRequest: it is not a recording, it has no sound, or it is damaged; names the field `param`.
        TooLarge: it is beyond a limit.
    """
    bound_allocations()
    rate, mixer = _read(source, Mixer(samples), limits, param, is_unwanted)
    if mixer.is_cancelled:
        source.seek(0)
        samples.seek(0)
        rate, _ = _read(source, Mixer(samples, mixer.strongest), limits, param, is_unwanted)
    if not samples.tell():
        raise InvalidRequest(TOO_LITTLE, param)
    return rate


def bound_allocations() -> None:
    """Limit FFmpeg's single allocations. PyAV has no binding for it."""
    _libavutil().av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION_BYTES))


@functools.cache
def _libavutil() -> ctypes.CDLL:
    import av  # noqa: F401

    loaded = re.search(r"/\S*/libavutil[^/\s]*", Path("/proc/self/maps").read_text())
    if loaded is None:
        raise RuntimeError("PyAV is loaded without libavutil: its memory limit can't be set.")
    return ctypes.CDLL(loaded[0])


class Mixer:
    """Writes the float32 mix of all channels to `samples`, block by block.

    `channel` is the only one to use; None for the mean of all.
    """

    def __init__(self, samples: BinaryIO, channel: int | None = None) -> None:
        self._samples = samples
        self._channel = channel
        self._parts: list[Waveform] = []
        self._held = 0
        self._powers = np.zeros(1)
        self._cancelled_power = 0.0

    def add(self, part: Waveform) -> None:
        """Add `(samples, channels)`."""
        self._parts.append(part)
        self._held += len(part)
        if self._held >= BLOCK:
            self.flush()

    def flush(self) -> None:
        if not self._parts:
            return
        block = np.concatenate(self._parts)
        self._parts, self._held = [], 0
        np.nan_to_num(block, copy=False, posinf=1.0, neginf=-1.0)
        if self._channel is None:
            mixed = block.mean(axis=1, dtype=np.float32)
        else:
            mixed = np.ascontiguousarray(block[:, self._channel])
        if block.shape[1] > 1:
            for first in range(0, len(block), FRAME):
                self._weigh(block[first : first + FRAME], mixed[first : first + FRAME])
        np.clip(mixed, -1.0, 1.0, out=mixed)
        self._samples.write(mixed.data)

    def _weigh(self, frame: Waveform, mixed: Waveform) -> None:
        """Sum up the power of each channel, and the power that is lost in their mean."""
        powers = np.einsum("sc,sc->c", frame, frame, dtype=np.float64)
        mean_power = float(np.einsum("s,s->", mixed, mixed, dtype=np.float64))
        self._powers = self._powers + powers
        if mean_power < CANCELLED_SHARE * powers.sum() / len(powers) ** 2:
            self._cancelled_power += float(powers.sum())

    @property
    def is_cancelled(self) -> bool:
        return bool(self._cancelled_power > CANCELLED_PART * self._powers.sum())

    @property
    def strongest(self) -> int:
        return int(self._powers.argmax())


def _read(
    source: BinaryIO, mixer: Mixer, limits: Limits, param: str, is_unwanted: Callable[[], bool]
) -> tuple[int, Mixer]:
    import av

    try:
        container = av.open(
            _Source(source),
            options={
                "format_whitelist": DEMUXERS,
                "codec_whitelist": DECODERS,
                "protocol_whitelist": "file",
                "max_streams": str(MAX_STREAMS),
            },
            metadata_errors="ignore",
        )
    except (av.FFmpegError, ValueError, OSError) as error:
        raise InvalidRequest(UNREADABLE, param) from error
    with container:
        if not container.streams.audio:
            raise InvalidRequest("The file has no sound in it. Send a recording of a voice.", param)
        stream = container.streams.audio[0]
        context = stream.codec_context  # None where FFmpeg has no name for the codec
        if context is None or context.name not in DECODERS.split(","):
            raise InvalidRequest(UNREADABLE, param)
        _check_shape(context.sample_rate, context.channels, limits, param)
        context.thread_count = 1
        rate = min(int(context.sample_rate), MAX_RATE)
        for part in _parts(container, stream, rate, limits, param, is_unwanted):
            mixer.add(part)
    mixer.flush()
    return rate, mixer


class _Source:
    """A file for FFmpeg. A bad seek returns -1: PyAV would print the traceback of an exception."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.tell = file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError):
            return -1


def _check_shape(rate: int, channels: int, limits: Limits, param: str) -> None:
    if not limits.min_sample_rate <= rate <= limits.max_sample_rate:
        raise InvalidRequest(
            f"The recording has {rate} samples a second; {limits.min_sample_rate} to "
            f"{limits.max_sample_rate} (limits.max_sample_rate) are possible.",
            param,
        )
    if not 1 <= channels <= limits.max_channels:
        raise InvalidRequest(
            f"The recording has {channels} channels; 1 to {limits.max_channels} (limits.max_channels) "
            "are possible.",
            param,
        )


def _parts(
    container: Any, stream: Any, rate: int, limits: Limits, param: str, is_unwanted: Callable[[], bool]
) -> Iterator[Waveform]:
    """The samples of the stream's frames, `(samples, channels)`, at that rate."""
    import av

    # interleaved: for planar sound of eight channels PyAV counts nine planes, and reads past their end
    resampler = av.AudioResampler(format="flt", rate=rate)
    most_packets = int(limits.max_seconds * PACKETS_PER_S)
    packets = damaged = held = 0
    shape: tuple[int, int] | None = None
    try:
        for packet in container.demux(stream):
            packets += 1
            if is_unwanted():
                raise InvalidRequest("The request was cancelled while its recording was decoded.", param)
            if packets > most_packets:
                raise InvalidRequest("The recording is damaged: it has too many parts.", param)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                now = frame.sample_rate, frame.layout.nb_channels
                if shape is None:
                    _check_shape(*now, limits, param)  # the header may be wrong
                    shape = now
                elif now != shape:
                    raise InvalidRequest(_changed(shape, now), param)
                held += frame.samples
                if held > limits.max_seconds * frame.sample_rate:
                    raise TooLarge(
                        f"The recording is longer than the {limits.max_seconds:g} s that are allowed "
                        "(limits.max_audio). Send a shorter one.",
                        param,
                    )
                for out in resampler.resample(frame):
                    yield cast(Waveform, out.to_ndarray()).reshape(-1, now[1])
    except av.PatchWelcomeError as error:  # for instance an Ogg file whose channels change
        raise InvalidRequest(UNSUPPORTED_PART, param) from error
    except (av.FFmpegError, ValueError, LookupError, OSError) as error:
        # LookupError: a stream that appeared after the file was opened, which PyAV doesn't know
        raise InvalidRequest("The recording is damaged: it can't be decoded to its end.", param) from error
    if shape is None or damaged > DAMAGED_SHARE * packets:
        raise InvalidRequest(TOO_LITTLE, param)


def _changed(before: tuple[int, int], now: tuple[int, int]) -> str:
    return (
        f"The recording changes midway from {before[1]} channels at {before[0]} Hz to {now[1]} "
        f"at {now[0]} Hz. Send one that stays the same."
    )
