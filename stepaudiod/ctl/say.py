"""`stepaudioctl say`: speak a text to a player, a file or a pipe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from stepaudiod.audio.formats import MEDIA_TYPES
from stepaudiod.ctl.connect import DaemonProgress, connect
from stepaudiod.ctl.daemons import find_daemon
from stepaudiod.ctl.errors import WrongUsage
from stepaudiod.ctl.options import Options, number, word
from stepaudiod.ctl.output import FileOutput, PipeOutput, Sink
from stepaudiod.ctl.players import PLAYERS, Playback, find_player
from stepaudiod.ctl.terminal import Terminal
from stepaudiod.ctl.wav import ReceivedAudio

NAME = "say"
SUMMARY = "speak a text: play it, or write it to a file or a pipe"

DEFAULT_MODEL = "tts-1"
"""OpenAI's name, which means the engine that the daemon has selected."""

PIPE_FORMAT = "wav"
EXTENSIONS = {"ogg": "opus", "oga": "opus"} | {name: name for name in MEDIA_TYPES}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", help="the text; without it, or with -, standard input is read")
    parser.add_argument(
        "to_pipe", nargs="?", choices=["-"], metavar="-", help="after the text: the same as -o -"
    )
    parser.add_argument("--file", metavar="FILE", help="read the text from this file (UTF-8)")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write to FILE instead of playing; - is standard output (wav unless --format)",
    )
    parser.add_argument(
        "--format",
        choices=list(MEDIA_TYPES),
        help="format of the output; default: by its extension (.ogg is opus)",
    )
    parser.add_argument(
        "--voice", type=word, default="", metavar="VOICE", help="one of `stepaudioctl voices`"
    )
    parser.add_argument(
        "--model",
        type=word,
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="default: the one that the daemon has selected",
    )
    parser.add_argument("--speed", type=number, metavar="X", help="0.25 to 4; 1 is the voice's normal speed")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed produces the same audio")
    names = [player.program for player in PLAYERS]
    parser.add_argument("--player", choices=names, help="default: the first that is installed")


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    output = _output(arguments)
    if arguments.file is not None and arguments.text not in (None, "-"):
        raise WrongUsage("A text and --file can't be used together. Give one of them.")
    player = find_player(arguments.player) if output is None else None
    audio_format = player.format if player else _format(arguments.format, output or "-")
    options = find_daemon(options, terminal)
    form = _form(arguments, audio_format, _text(arguments, terminal))
    sink: Sink = (
        Playback(player) if player else PipeOutput() if output == "-" else FileOutput(Path(output or ""))
    )
    received = ReceivedAudio(audio_format)
    try:
        _receive(form, sink, received, options, terminal)
        sink.finish()
    except BaseException:
        sink.abort()
        raise
    terminal.end_progress()
    if output not in (None, "-") and terminal.shows_progress:
        terminal.note(f"{output}: {received}")
    value = {
        "output": output,
        "player": player and player.program,
        "format": audio_format,
        "size_bytes": received.size_bytes,
        "duration_s": received.duration_s,
    }
    terminal.result(value, "", sys.stderr if output == "-" else None)


def _receive(
    form: dict[str, Any], sink: Sink, received: ReceivedAudio, options: Options, terminal: Terminal
) -> None:
    with (
        connect(options, terminal) as client,
        DaemonProgress(options, terminal) as waiting,
        client.speak(form) as audio,
    ):
        for data in audio:
            waiting.end()
            received.add(data)
            if not sink.write(data):
                return
            terminal.progress(str(received))


def _output(arguments: argparse.Namespace) -> str | None:
    """A file's name, `-` for standard output, or None to play."""
    output: str | None = arguments.output
    if arguments.to_pipe:
        if output not in (None, "-"):
            raise WrongUsage(f"The last - means standard output, but -o is {output}. Leave one of them out.")
        output = "-"
    if output == "":
        raise WrongUsage("-o needs the name of a file, or - for standard output.")
    if output == "-" and sys.stdout.isatty():
        raise WrongUsage(
            "Audio can't be written to a terminal. Redirect standard output to a program or a file, or leave "
            "out -o -."
        )
    if output is not None and arguments.player:
        raise WrongUsage("--player and -o can't be used together. Leave one of them out.")
    if output is None and arguments.format:
        raise WrongUsage("--format is only for -o, since a player has a format of its own. Leave it out.")
    return output


def _format(wanted: str | None, output: str) -> str:
    if wanted is not None:
        return wanted
    if output == "-":
        return PIPE_FORMAT
    extension = Path(output).suffix.lower().removeprefix(".")
    if extension not in EXTENSIONS:
        known = " ".join(sorted(EXTENSIONS))
        raise WrongUsage(f"{output} has none of the extensions {known}. Use one of them, or --format.")
    return EXTENSIONS[extension]


def _form(arguments: argparse.Namespace, audio_format: str, text: str) -> dict[str, Any]:
    form = {
        "model": arguments.model,
        "voice": arguments.voice,
        "input": text,
        "response_format": audio_format,
        "speed": arguments.speed,
        "seed": arguments.seed,
    }
    return {name: value for name, value in form.items() if value is not None}


def _text(arguments: argparse.Namespace, terminal: Terminal) -> str:
    try:
        if arguments.file not in (None, "-"):
            return Path(arguments.file).read_bytes().decode()
        if arguments.text not in (None, "-"):
            return str(arguments.text).encode(errors="surrogateescape").decode()
        if sys.stdin.isatty():
            terminal.note("Type the text, then press Ctrl-D.")
        return sys.stdin.buffer.read().decode()
    except OSError as error:
        raise WrongUsage(f"{arguments.file or 'standard input'} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise WrongUsage(f"The text isn't UTF-8: {error.reason} at byte {error.start}.") from None
