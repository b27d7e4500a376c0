"""A recording in any common container or codec into float samples, within limits. Knows no engine.

The bytes come from strangers: only demuxers of plain audio and video files may look at them (none that opens
other files or addresses, as playlists do), and the limits hold while decoding, whatever the header claims.
"""

from __future__ import annotations

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

DAMAGED_SHARE = 0.1
"""A larger share of packets that can't be decoded makes a recording damaged; good mp3 files have a few."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a recording may measure."""

    max_seconds: float = 600.0
    max_channels: int = 8
    max_sample_rate: int = 192_000
    min_sample_rate: int = 4_000


def decode(source: bytes | Path, limits: Limits | None = None, param: str = "file") -> tuple[Waveform, int]:
    """Read a recording's first audio stream, its channels mixed to one.

    Args:
        source: the file's bytes, or where it is.
        limits: what it may measure.
        param: the request field to blame.

    Returns:
        Samples in -1..1, `(samples,)`, and their rate in Hz.

    Raises:
        InvalidRequest: it is not a recording, it has no sound, or it is damaged.
        TooLarge: it is beyond a limit.
    """
    import av

    limits = limits or Limits()
    try:
        container = av.open(
            BytesIO(source) if isinstance(source, bytes) else str(source),
            options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"},
            metadata_errors="ignore",
        )
    except (av.FFmpegError, ValueError, OSError) as error:
        raise InvalidRequest(
            "The recording can't be read: it is empty, damaged, or in a format that is not known here. "
            "Send wav, mp3, flac, ogg, opus, m4a or webm.",
            param,
        ) from error
    with container:
        if not container.streams.audio:
            raise InvalidRequest("The file has no sound in it. Send a recording of a voice.", param)
        stream = container.streams.audio[0]
        _check_shape(stream.codec_context.sample_rate, stream.codec_context.channels, limits, param)
        waveform = _read(container, stream, limits, param)
        return waveform, int(stream.codec_context.sample_rate)


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


def _read(container: Any, stream: Any, limits: Limits, param: str) -> Waveform:
    import av

    rate = stream.codec_context.sample_rate
    room = int(limits.max_seconds * rate)
    resampler = av.AudioResampler(format="fltp", rate=rate)
    parts: list[Waveform] = []
    packets = damaged = held = 0
    try:
        for packet in container.demux(stream):
            packets += 1
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                for out in resampler.resample(frame):
                    samples = out.to_ndarray()  # (channels, samples)
                    parts.append(samples.mean(axis=0, dtype=np.float32))
                    held += samples.shape[1]
            if held > room:
                raise TooLarge(
                    f"The recording is longer than the {limits.max_seconds:g} s that are allowed.", param
                )
    except (av.FFmpegError, ValueError) as error:
        raise InvalidRequest("The recording is damaged: it can't be decoded to its end.", param) from error
    if not held or damaged > DAMAGED_SHARE * packets:
        raise InvalidRequest("The recording is damaged: too little of it can be decoded.", param)
    waveform = np.concatenate(parts)
    return np.clip(np.nan_to_num(waveform), -1.0, 1.0)
