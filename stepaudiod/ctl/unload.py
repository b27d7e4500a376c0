"""`stepaudioctl unload`: free the memory of models."""

from __future__ import annotations

import argparse
from urllib.parse import quote

from stepaudiod.ctl.connect import connect
from stepaudiod.ctl.daemons import find_daemon
from stepaudiod.ctl.options import Options, word
from stepaudiod.ctl.terminal import Terminal

NAME = "unload"
SUMMARY = "free the memory of a model"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=word, nargs="?", metavar="MODEL", help="default: all loaded models")


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    options = find_daemon(options, terminal)
    with connect(options, terminal) as client:
        if arguments.model:
            names = [arguments.model]
        else:
            models = client.get("/api/v1/models/status")
            names = [name for name, model in models.items() if model.get("loaded")]
        answers = [client.post(f"/api/v1/models/{quote(name, safe='')}/unload") for name in names]
    # one worker holds all models, so the second request may find none loaded, which is not an error
    unloaded = [a["model"] for a in answers if a["unloaded"] or not arguments.model]
    text = f"unloaded {', '.join(unloaded)}" if unloaded else "nothing was loaded"
    terminal.result({"unloaded": unloaded}, text)
