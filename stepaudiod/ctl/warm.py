"""`stepaudioctl warm`: load a model and fill its caches, so that no later request waits for that.

It sends a small request, since the caches belong to the daemon's user, and its worker has the GPU. The worker
compiles all kernels while it loads; after the request it captures all graphs, which it keeps, and prepares
the networks for the next start on a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stepaudiod.ctl.connect import DaemonProgress, connect
from stepaudiod.ctl.daemons import find_daemon
from stepaudiod.ctl.errors import DaemonRefused
from stepaudiod.ctl.options import Options, word
from stepaudiod.ctl.terminal import Terminal

if TYPE_CHECKING:
    from stepaudiod.ctl.client import Client

NAME = "warm"
SUMMARY = "load a model and fill its caches, so that later requests start faster"

TEXTS = {"en": "The birch canoe slid on the smooth planks.", "zh": "今天天气很好，我们出去走走。"}
"""One for each language that has its own files in the cache."""
SPEAKER = "hibari"
"""Speaks the recording to edit for a model without a voice: this engine is part of every installation."""
MODE = "denoise"
LOOK_S = 0.1
PREPARING_S = 600.0
"""How long a worker may take to capture its graphs and to write its files; other requests delay it."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=word, nargs="?", metavar="MODEL", help="default: the one that the daemon has selected"
    )


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    options = find_daemon(options, terminal)
    with connect(options, terminal) as client:
        name = arguments.model or client.get("/api/v1/models/status")["daemon"]["engine"]
        if name is None:
            reason = client.get("/api/v1/models/status")["daemon"]["reason"]
            raise DaemonRefused(reason, 503, "engine_unavailable")
        model = client.get(f"/v1/models/{quote(name, safe='')}")
        name = model.get("stands_for") or model["id"]  # the status has no other names
        request = _make_request(model, options, terminal)
    started = time.monotonic()
    with DaemonProgress(options, terminal) as waiting:
        request()
        waiting.end()
    terminal.end_progress()
    stages = [("loading and the first request", time.monotonic() - started)]
    with connect(options, terminal) as client:
        device = str(_status(client, name).get("device", "cpu"))
        is_compiled, (is_warm, duration_s) = device.startswith("cuda"), _wait_until_warm(client, name)
    if is_compiled:
        if not is_warm:
            raise DaemonRefused(
                f"{name} was unloaded, or did not prepare everything within {PREPARING_S:.0f} s; what is "
                "missing is made by later requests. The journal may say why; run this again.",
                503,
                "engine_unavailable",
            )
        stages.append(("graphs, and files for the next start", duration_s))
    terminal.result(
        {
            "model": name,
            "device": device,
            "compiled": is_compiled,
            "stages": [{"what": what, "duration_s": round(duration_s, 3)} for what, duration_s in stages],
        },
        _report(name, device, is_compiled, stages),
    )


def _status(client: Client, name: str) -> dict[str, Any]:
    status: dict[str, Any] = client.get("/api/v1/models/status").get(name, {})
    return status


def _wait_until_warm(client: Client, name: str) -> tuple[bool, float]:
    """Wait until the worker has nothing left to prepare, or is gone; returns whether, and the seconds."""
    started = time.monotonic()
    while time.monotonic() < started + PREPARING_S and _status(client, name).get("warm") is False:
        time.sleep(LOOK_S)
    return _status(client, name).get("warm") is True, time.monotonic() - started


def _make_request(model: dict[str, Any], options: Options, terminal: Terminal) -> Callable[[], None]:
    """Return a function that sends one request that the model supports and reads the whole response."""
    name, abilities = model["id"], model["capabilities"]
    if not abilities["speak"] and MODE not in abilities["edits"]:
        raise DaemonRefused(
            f"{name} neither speaks nor edits recordings, so there is nothing to warm. "
            "`stepaudioctl status` lists the models.",
            422,
            "unsupported",
        )
    languages = {language.partition("-")[0] for language in model["languages"]}
    texts = [text for language, text in TEXTS.items() if language in languages] or list(TEXTS.values())[:1]
    recording = b"" if abilities["speak"] else _recording(options, terminal)

    def request() -> None:
        with connect(options, terminal) as client:
            if recording:
                fields = {"model": name, "mode": MODE, "seed": "1", "response_format": "wav"}
                with client.edit(fields, recording) as audio:
                    deque(audio, maxlen=0)
                return
            for text in texts:
                form = {"model": name, "voice": "", "input": text, "seed": 1, "response_format": "wav"}
                with client.speak(form) as audio:
                    deque(audio, maxlen=0)

    return request


def _recording(options: Options, terminal: Terminal) -> bytes:
    form = {"model": SPEAKER, "voice": "", "input": TEXTS["en"], "seed": 1, "response_format": "wav"}
    with connect(options, terminal) as client, client.speak(form) as audio:
        return b"".join(audio)


def _report(name: str, device: str, is_compiled: bool, stages: Sequence[tuple[str, float]]) -> str:
    width = max(len(what) for what, _ in stages)
    lines = [f"{name}, on {'the CPU' if device == 'cpu' else device}"]
    lines += [f"  {what.ljust(width)}  {duration_s:6.1f} s" for what, duration_s in stages]
    if is_compiled:
        lines.append("The cache has what the next start needs; the worker keeps the graphs.")
    else:
        lines.append("Nothing is compiled for a CPU; the model's other caches are filled.")
    return "\n".join(lines)
