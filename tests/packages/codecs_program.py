"""Tries a wheel of PyAV, in a process that has it instead of the checkout's: `codecs_program.py PART`."""

from __future__ import annotations

import ctypes
import io
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np

from stepaudiod.audio.decode import DECODERS, DEMUXERS, _libavutil, decode
from stepaudiod.audio.encode import make_encoder
from stepaudiod.audio.formats import MEDIA_TYPES

RATE = 24_000
FILTERS = (
    "abuffer abuffersink aformat anull apad aresample asetpts atempo atrim concat ebur128 equalizer highpass "
    "loudnorm lowpass silenceremove volume"
)
OTHER_BUILDS = {"libopencore_amrnb", "libopencore_amrwb"}
"""Decoders of some builds, whose work another one does here."""


def licence() -> str:
    libavutil = _libavutil()
    libavutil.avutil_license.restype = ctypes.c_char_p
    loaded = Path("/proc/self/maps").read_text()
    assert "x264" not in loaded
    assert "x265" not in loaded
    return str(libavutil.avutil_license().decode())


def decoders() -> list[str]:
    return [name for name in set(DECODERS.split(",")) - OTHER_BUILDS if not is_codec(name, "r")]


def is_codec(name: str, mode: Any) -> bool:
    try:
        av.Codec(name, mode)
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def demuxers() -> list[str]:
    known = {name for each in av.formats_available for name in each.split(",")}
    return sorted(set(DEMUXERS.split(",")) - known)


def filters() -> list[str]:
    return sorted(set(FILTERS.split()) - set(av.filter.filters_available))


def formats() -> list[str]:
    """Each format that is answered is one that is read."""
    missing = []
    sound = (np.sin(np.arange(RATE) / 20) / 2).astype(np.float32)
    for name in set(MEDIA_TYPES) - {"pcm"}:
        encoder = make_encoder(name, RATE)
        data = encoder.encode(sound) + encoder.finish()
        waveform, rate = decode(data)
        if abs(len(waveform) / rate - 1) > 0.1:
            missing.append(name)
    return missing


def book() -> list[str]:
    """An audiobook: AAC in MP4 with chapters and a cover, which are found again."""
    cover = picture()
    written = io.BytesIO()
    with (
        av.open(written, "w", format="mp4") as container,
        av.open(io.BytesIO(cover), "r", format="mjpeg") as pictures,
    ):
        sound: Any = container.add_stream("aac", rate=RATE, layout="mono")
        shown = container.add_stream_from_template(pictures.streams.video[0])
        shown.disposition = av.stream.Disposition.attached_pic
        chapters = [("One", 0, 1000), ("Two", 1000, 2000)]
        container.set_chapters(
            [
                {
                    "id": n,
                    "start": start,
                    "end": end,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for n, (title, start, end) in enumerate(chapters)
            ]
        )
        for packet in pictures.demux():
            if packet.dts is not None:
                packet.stream = shown
                container.mux(packet)
        frame: Any = av.AudioFrame.from_ndarray(
            np.zeros((1, 2 * RATE), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with av.open(io.BytesIO(written.getvalue()), "r") as container:
        titles = [chapter["metadata"]["title"] for chapter in container.chapters()]
        is_cover = any(bytes(packet) == cover for packet in container.demux(video=0))
    missing = [] if titles == ["One", "Two"] else ["chapters"]
    return missing + ([] if is_cover else ["cover"])


def picture() -> bytes:
    output = io.BytesIO()
    with av.open(output, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        frame = av.VideoFrame(64, 64, "yuvj420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return output.getvalue()


def main(part: str) -> None:
    if part == "licence":
        print(licence())
        return
    found = {
        "decoders": decoders,
        "demuxers": demuxers,
        "filters": filters,
        "formats": formats,
        "book": book,
    }[part]()
    print(f"missing: {', '.join(found)}" if found else "none is missing")


if __name__ == "__main__":
    main(sys.argv[1])
