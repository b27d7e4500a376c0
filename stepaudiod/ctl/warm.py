"""`stepaudioctl warm`: have everything made that can be kept, so that no later request waits for it.

It asks the daemon for small requests: the caches belong to the daemon's user, and its worker has the GPU.
Kernels are compiled for one sequence, for up to four and for more, so requests come alone, three at once, and
as many at once as fit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stepaudiod.ctl.connect import connect
from stepaudiod.ctl.errors import DaemonRefused
from stepaudiod.ctl.options import word
from stepaudiod.ctl.waiting import Waiting

if TYPE_CHECKING:
    from stepaudiod.ctl.options import Options
    from stepaudiod.ctl.terminal import Terminal

NAME = "warm"
SUMMARY = "load a model and fill its caches: what can be compiled or made beforehand"

TEXTS = {"en": "The birch canoe slid on the smooth planks.", "zh": "今天天气很好，我们出去走走。"}
"""One for each language that has files of its own in the cache."""
AT_ONCE = (3, 16)
"""Requests at a time, after a single one; the daemon works on as many as `limits.concurrency` says."""
SPEAKER = "hibari"
"""Whose speech is changed where a model has no voice yet: it comes with every installation."""
MODE = "denoise"


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "model", type=word, nargs="?", metavar="MODEL", help="default: the one the daemon has chosen"
    )


@dataclass(frozen=True)
class Stage:
    """What was done, and how long it took."""

    what: str
    duration_s: float


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    """Warm one model."""
    with connect(options, terminal) as client:
        name = arguments.model or client.get("/api/v1/models/status")["daemon"]["engine"]
        if name is None:
            reason = client.get("/api/v1/models/status")["daemon"]["reason"]
            raise DaemonRefused(reason, 503, "engine_unavailable")
        model = client.get(f"/v1/models/{quote(name, safe='')}")
        ask = _asker(model, options, terminal)
    stages = [_together(1, ask, options, terminal, "loaded, and the first request")]
    with connect(options, terminal) as client:
        device = str(client.get("/api/v1/models/status").get(name, {}).get("device", "cpu"))
    is_compiled = device.startswith("cuda")
    for count in AT_ONCE if is_compiled else ():
        stages.append(_together(count, ask, options, terminal, f"{count} requests at once"))
    terminal.result(
        {
            "model": name,
            "device": device,
            "compiled": is_compiled,
            "stages": [{"what": stage.what, "duration_s": round(stage.duration_s, 3)} for stage in stages],
        },
        _report(name, device, is_compiled, stages),
    )


def _asker(model: dict[str, Any], options: Options, terminal: Terminal) -> Callable[[int], None]:
    """What sends one request to a model, whatever it can do, and takes the answer to its end."""
    name, abilities = model["id"], model["capabilities"]
    if not abilities["speak"] and MODE not in abilities["edits"]:
        raise DaemonRefused(
            f"{name} neither speaks nor changes recordings, so there is nothing to warm. "
            "`stepaudioctl status` lists the models.",
            422,
            "unsupported",
        )
    languages = {language.partition("-")[0] for language in model["languages"]}
    texts = [text for language, text in TEXTS.items() if language in languages] or list(TEXTS.values())[:1]
    spoken = b"" if abilities["speak"] else _recording(options, terminal)

    def ask(seed: int) -> None:
        with connect(options, terminal) as client:
            if spoken:
                fields = {"model": name, "mode": MODE, "seed": str(seed), "response_format": "wav"}
                with client.edit(fields, spoken) as audio:
                    _drain(audio)
                return
            for text in texts:
                form = {"model": name, "voice": "", "input": text, "seed": seed, "response_format": "wav"}
                with client.speak(form) as audio:
                    _drain(audio)

    return ask


def _recording(options: Options, terminal: Terminal) -> bytes:
    """Something that was said, as WAV."""
    form = {"model": SPEAKER, "voice": "", "input": TEXTS["en"], "seed": 1, "response_format": "wav"}
    with connect(options, terminal) as client, client.speak(form) as audio:
        return b"".join(audio)


def _drain(audio: Any) -> None:
    for _ in audio:
        pass


def _together(
    count: int, ask: Callable[[int], None], options: Options, terminal: Terminal, what: str
) -> Stage:
    """Send so many requests at once; the first error is the command's."""
    started = time.monotonic()
    with Waiting(options, terminal) as waiting, ThreadPoolExecutor(count) as pool:
        for answer in [pool.submit(ask, seed) for seed in range(1, count + 1)]:
            answer.result()
        waiting.end()
    terminal.end_progress()
    return Stage(what, time.monotonic() - started)


def _report(name: str, device: str, is_compiled: bool, stages: Sequence[Stage]) -> str:
    """The answer for a person."""
    width = max(len(stage.what) for stage in stages)
    lines = [f"{name}, on {'the processor' if device == 'cpu' else device}"]
    lines += [f"  {stage.what.ljust(width)}  {stage.duration_s:6.1f} s" for stage in stages]
    if is_compiled:
        lines.append("Its kernels are compiled and kept: the next start finds them.")
    else:
        lines.append("There is nothing to compile for a processor. What else this model keeps is there.")
    return "\n".join(lines)
