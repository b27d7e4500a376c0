"""`stepaudioctl inspect`: is a file marked as synthetic, and by which model. Needs no daemon."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudiod.audio.ai_marking import EDITED, IPTC, find_mark
from stepaudiod.ctl.errors import NotMarked, WrongUsage

if TYPE_CHECKING:
    from stepaudiod.ctl.options import Options
    from stepaudiod.ctl.terminal import Terminal

NAME = "inspect"
SUMMARY = "tell whether a sound file is marked as synthetic, and by which model"

SYNTHETIC_TYPES = (
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "algorithmicMedia",
    "compositeSynthetic",
)
"""IPTC's digital source types that other programs' synthetic sound may have."""
WITHOUT_METADATA = ("aac",)
"""FFmpeg's names of formats that have no place for a mark."""
MAX_PACKETS = 2_000_000
"""How many are looked at for a length that no header tells: over five hours of any codec."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file says of itself.

    Attributes:
        file: its name.
        format: its container.
        codec: of the sound.
        duration_s: None where it can't be told.
        is_marked: whether it says that it is synthetic.
        how: `generated`, `edited`, or None where another program made the mark.
        model: which model made it; None where the mark doesn't name one.
        digital_source_type: IPTC's, without the address before it; None where there is none.
    """

    file: str
    format: str
    codec: str
    duration_s: float | None
    is_marked: bool
    how: str | None
    model: str | None
    digital_source_type: str | None


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("file", metavar="FILE", help="mp3, opus, flac, wav, m4a or another sound file")


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    """Look and tell; a file without a mark is an error, so that scripts can ask."""
    found = inspect(arguments.file)
    terminal.result(asdict(found), _report(found))
    if not found.is_marked:
        place = (
            f"{found.format} has no place for one; the response's header X-StepAudio-Synthetic had it"
            if found.format in WITHOUT_METADATA
            else "which is no proof that it isn't: metadata can be taken off"
        )
        raise NotMarked(f"{arguments.file} isn't marked as synthetic, {place}.")


def inspect(path: str) -> Inspection:
    """Read a file's metadata. Nothing is decoded.

    Raises:
        WrongUsage: it can't be read, or it is no sound file.
    """
    import av

    from stepaudiod.audio.decode import DEMUXERS

    try:
        with Path(path).open("rb") as file, _opened(av, file, DEMUXERS) as container:
            if not container.streams.audio:
                raise WrongUsage(f"{path} has no sound in it.")
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
            f"{path} isn't a sound file that is known here ({error.strerror}). "
            "Give one of mp3, opus, flac, wav, m4a and similar formats; pcm has no header, and so no mark."
        ) from None
    except OSError as error:
        raise WrongUsage(f"{path} can't be read: {error.strerror}.") from None


def _opened(av: Any, file: Any, demuxers: str) -> Any:
    """The container of an open file: no name reaches FFmpeg, which takes some names for addresses."""
    options = {"format_whitelist": demuxers}
    return av.open(file, options=options, metadata_errors="replace")


def _duration_s(av: Any, container: Any, stream: Any) -> float | None:
    """The length that the header tells, or where the last packet ends: a stream's header tells none."""
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
    """The same for people."""
    length = "" if found.duration_s is None else f", {found.duration_s:.1f} s"
    kind = found.codec if found.codec == found.format else f"{found.codec} in {found.format}"
    lines = [f"{kind}{length}"]
    if found.model is not None:
        how = "a recording edited" if found.how == EDITED else "generated"
        lines.append(f"synthetic: {how} by the model {found.model}")
    elif found.is_marked:
        lines.append("synthetic: the mark doesn't name the model")
    else:
        lines.append("no mark")
    if found.digital_source_type:
        lines.append(f"IPTC digital source type: {found.digital_source_type}")
    return "\n".join(lines)
