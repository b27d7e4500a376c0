"""A recording in any common container or codec into float samples, within limits. Knows no engine.

The bytes come from strangers: only demuxers of plain audio and video files may look at them (none that opens
other files or addresses, as playlists do), only decoders of sound (a megabyte of cover picture may unpack to
a gigabyte), and the limits hold while decoding, whatever the header claims.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepaudiod.errors import InvalidRequest, TooLarge

Waveform = NDArray[np.float32]

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
"""The decoders that may run on an upload; FFmpeg would also unpack pictures, to learn their size."""

MAX_RATE = 48_000
"""Voices have nothing above half of it, and ten minutes at four times the rate take four times the memory."""
MAX_STREAMS = 8
MAX_ALLOCATION_BYTES = 64 << 20
"""No honest recording makes FFmpeg ask for more at once; packed metadata and tables that lie do."""

PACKETS_PER_S = 1000
"""The shortest packets of any codec are 2.5 ms long; a table may claim the same few bytes for millions."""

DAMAGED_SHARE = 0.1
"""A larger share of packets that can't be decoded makes a recording damaged; good mp3 files have a few."""


UNREADABLE = (
    "The recording can't be read: it is empty, damaged, or in a format that is not known here. "
    "Send wav, mp3, flac, ogg, opus, m4a or webm."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a recording may measure."""

    max_seconds: float = 600.0
    max_channels: int = 8
    max_sample_rate: int = 192_000
    min_sample_rate: int = 4_000


def decode(
    source: bytes | Path,
    limits: Limits | None = None,
    param: str = "file",
    is_unwanted: Callable[[], bool] = lambda: False,
) -> tuple[Waveform, int]:
    """Read a recording's first audio stream, its channels mixed to one, what is above 48 kHz brought down.

    Args:
        source: the file's bytes, or where it is.
        limits: what it may measure.
        param: the request field to blame.
        is_unwanted: asked now and then; once it says yes, decoding ends.

    Returns:
        Samples in -1..1, `(samples,)`, and their rate in Hz.

    Raises:
        InvalidRequest: it is not a recording, it has no sound, or it is damaged.
        TooLarge: it is beyond a limit.
    """
    import av

    limits = limits or Limits()
    _bound_allocations()
    try:
        container = av.open(
            BytesIO(source) if isinstance(source, bytes) else str(source),
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
        context = stream.codec_context  # None where the header names a codec that nobody knows
        if context is None or context.name not in DECODERS.split(","):
            raise InvalidRequest(UNREADABLE, param)
        _check_shape(context.sample_rate, context.channels, limits, param)
        rate = min(int(context.sample_rate), MAX_RATE)
        return _read(container, stream, rate, limits, param, is_unwanted), rate


def _bound_allocations() -> None:
    """Let FFmpeg refuse to allocate more than a recording needs. PyAV has no name for it, the library has."""
    loaded = re.search(r"/\S*/libavutil[^/\s]*", Path("/proc/self/maps").read_text())
    if loaded is None:
        raise RuntimeError("PyAV is here without libavutil: its limit of memory can't be set.")
    ctypes.CDLL(loaded[0]).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION_BYTES))


def _check_shape(rate: int, channels: int, limits: Limits, param: str) -> None:
    if not limits.min_sample_rate <= rate <= limits.max_sample_rate:
        raise InvalidRequest(
            f"The recording has {rate} samples a second; "
            f"{limits.min_sample_rate} to {limits.max_sample_rate} are possible.",
            param,
        )
    if not 1 <= channels <= limits.max_channels:
        raise InvalidRequest(
            f"The recording has {channels} channels; 1 to {limits.max_channels} are possible.", param
        )


def _read(
    container: Any, stream: Any, rate: int, limits: Limits, param: str, is_unwanted: Callable[[], bool]
) -> Waveform:
    import av

    room = int(limits.max_seconds * stream.codec_context.sample_rate)
    resampler = av.AudioResampler(format="fltp", rate=rate)
    parts: list[Waveform] = []
    most_packets = int(limits.max_seconds * PACKETS_PER_S)
    packets = damaged = held = 0
    try:
        for packet in container.demux(stream):
            packets += 1
            if is_unwanted():
                raise InvalidRequest("Nobody waits for this recording any more.", param)
            if packets > most_packets:
                raise InvalidRequest("The recording is damaged: it has too many parts.", param)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                held += frame.samples
                if held > room:
                    raise TooLarge(
                        f"The recording is longer than the {limits.max_seconds:g} s that are allowed.", param
                    )
                for out in resampler.resample(frame):
                    samples = out.to_ndarray()  # (channels, samples)
                    parts.append(samples.mean(axis=0, dtype=np.float32))
    except (av.FFmpegError, ValueError) as error:
        raise InvalidRequest("The recording is damaged: it can't be decoded to its end.", param) from error
    if not parts or damaged > DAMAGED_SHARE * packets:
        raise InvalidRequest("The recording is damaged: too little of it can be decoded.", param)
    waveform = np.concatenate(parts)
    np.nan_to_num(waveform, copy=False)
    return np.clip(waveform, -1.0, 1.0, out=waveform)
