"""`stepaudioctl voices`: list the voices."""

from __future__ import annotations

import argparse

from stepaudiod.ctl.connect import connect
from stepaudiod.ctl.daemons import find_daemon
from stepaudiod.ctl.options import Options, word
from stepaudiod.ctl.terminal import Terminal, table

NAME = "voices"
SUMMARY = "list the voices"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=word,
        metavar="MODEL",
        help="of this model; default: the one that the daemon has selected",
    )


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    options = find_daemon(options, terminal)
    with connect(options, terminal) as client:
        voices = client.get("/v1/voices", **({"model": arguments.model} if arguments.model else {}))
    rows = [
        (
            voice["id"],
            ", ".join(voice.get("languages") or [voice.get("locale", "")]),
            voice.get("gender", ""),
            voice.get("description", ""),
            " ".join(voice.get("openai_names", [])),
        )
        for voice in voices
    ]
    terminal.result(voices, table(("VOICE", "SPEAKS", "GENDER", "DESCRIPTION", "OPENAI NAMES"), rows))
