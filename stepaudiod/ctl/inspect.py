"""`stepaudioctl inspect`: shows whether an audio file is marked as synthetic. Needs no daemon."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepaudiod.audio.ai_marking import EDITED, IPTC, find_mark
from stepaudiod.ctl.errors import NotMarked, WrongUsage
from stepaudiod.ctl.options import Options
from stepaudiod.ctl.terminal import Terminal

NAME = "inspect"
SUMMARY = "show whether an audio file is marked as synthetic, and by which model"

SYNTHETIC_TYPES = (
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "algorithmicMedia",
    "compositeSynthetic",
)
"""IPTC's digital source types of synthetic audio, also from other programs."""
WITHOUT_METADATA = ("aac",)
"""FFmpeg's names of formats without metadata."""
MAX_PACKETS = 2_000_000
"""Limit of packets that are read to find a stream's duration: over five hours of any codec."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A file's metadata. `how` is `generated` or `edited`; None if another program made the mark."""

    file: str
    format: str
    codec: str
    duration_s: float | None
    is_marked: bool
    how: str | None
    model: str | None
    digital_source_type: str | None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="mp3, opus, flac, wav, m4a or another audio file")


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    found = inspect(arguments.file)
    terminal.result(asdict(found), _report(found))
    if not found.is_marked:
        reason = (
            f"since {found.format} has no metadata; the response had the header X-StepAudio-Synthetic"
            if found.format in WITHOUT_METADATA
            else "but it may be synthetic nevertheless: metadata can be removed"
        )
        raise NotMarked(f"{arguments.file} isn't marked as synthetic, {reason}.")


def inspect(path: str) -> Inspection:
    """Read a file's metadata, decoding nothing; a file without audio is `WrongUsage`."""
    import av

    from stepaudiod.audio.decode import DEMUXERS

    try:
        with (
            Path(path).open("rb") as file,  # FFmpeg never gets the name, since it opens some names as URLs
            av.open(file, options={"format_whitelist": DEMUXERS}, metadata_errors="replace") as container,
        ):
            if not container.streams.audio:
                raise WrongUsage(f"{path} has no audio.")
            stream = container.streams.audio[0]
            mark, source_type = find_mark({**stream.metadata, **container.metadata})
            plain_type = source_type.removeprefix(IPTC).removeprefix(IPTC.replace("http:", "https:"))
            known_type = plain_type if plain_type.isascii() and plain_type.isalnum() else None
            return Inspection(
                file=path,
                format=container.format.name.partition(",")[0],
                codec=stream.codec_context.name if stream.codec_context else "unknown",
                duration_s=_duration_s(av, container, stream),
                is_marked=mark is not None or known_type in SYNTHETIC_TYPES,
                how=None if mark is None else mark.how,
                model=None if mark is None else mark.model,
                digital_source_type=known_type,
            )
    except av.FFmpegError as error:
        raise WrongUsage(
            f"{path} isn't an audio file of a known format ({error.strerror}). "
            "Use mp3, opus, flac, wav, m4a or similar formats; pcm has no header, and so no mark."
        ) from None
    except OSError as error:
        raise WrongUsage(f"{path} can't be read: {error.strerror}.") from None


def _duration_s(av: Any, container: Any, stream: Any) -> float | None:
    """The duration from the header, or the end of the last packet: a stream's header has no duration."""
    if container.duration is not None:
        return round(float(container.duration / av.time_base), 3)
    end = None
    for count, packet in enumerate(container.demux(stream)):
        if packet.pts is not None and packet.time_base is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        if count == MAX_PACKETS:
            return None
    return None if end is None else round(end, 3)


def _report(found: Inspection) -> str:
    length = "" if found.duration_s is None else f", {found.duration_s:.1f} s"
    kind = found.codec if found.codec == found.format else f"{found.codec} in {found.format}"
    lines = [f"{kind}{length}"]
    if found.model is not None:
        how = "a recording edited" if found.how == EDITED else "generated"
        lines.append(f"synthetic: {how} by the model {found.model}")
    elif found.is_marked:
        lines.append("synthetic: the mark doesn't name the model")
    else:
        lines.append("not marked as synthetic")
    if found.digital_source_type:
        lines.append(f"IPTC digital source type: {found.digital_source_type}")
    return "\n".join(lines)
