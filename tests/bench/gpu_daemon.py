"""Speech through the daemon, over TCP: from a sleeping daemon, and for several clients at once.

A part of `python -m tests.bench.gpu`. The clock of a request runs from `connect`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.memory_plan import MemoryNeeds
from stepaudiod.editx.pipeline import SAMPLE_RATE
from tests.bench.cold import MODEL, VOICE, activated, lay_out, status, wait_until_warm
from tests.bench.endless import text_of
from tests.bench.listeners import LENGTHS_S, STREAMS, Listener, summary
from tests.bench.measure import spread
from tests.bench.table import Card, Table, name_of

SAMPLE_BYTES = 2
COLD_STARTS = 4
DOZES = 3
LIMITS = {None: "9.5G", Quantization.INT8: "6G", Quantization.INT4: "4.5G"}
"""Of GPU memory."""


async def _hear(port: int, text: str, seed: int) -> Listener:
    """Send one request and play its PCM."""
    asked = {"model": MODEL, "voice": VOICE, "input": text, "seed": seed}
    body = json.dumps(asked | {"response_format": "pcm"}).encode()
    head = f"POST /v1/audio/speech HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    listener = Listener(time.perf_counter())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raise RuntimeError((answer + await reader.read()).decode())
    while part := await reader.read(65536):
        listener.hear(len(part) / SAMPLE_BYTES / SAMPLE_RATE, time.perf_counter())
    writer.close()
    return listener


def _hear_at_once(port: int, seconds: float, count: int) -> list[Listener]:
    async def hear() -> list[Listener]:
        text = text_of(seconds)
        return await asyncio.gather(*(_hear(port, text, seed) for seed in range(count)))

    return asyncio.run(hear())


def daemon(table: Table) -> None:
    """From connect to the first byte while nothing runs; then 1, 4 and 16 clients at once."""
    for kind in table.kinds:
        with _laid_out(table, kind) as settings:
            name, firsts = name_of(kind), list[float]()
            for _ in range(COLD_STARTS):
                with activated(settings) as port:
                    firsts.append(_hear_at_once(port, LENGTHS_S[0], 1)[0].first_s)
                    wait_until_warm(port)
            first_time, *later = firsts
            what = "connect → first byte, nothing runs"
            table.add(f"{what}, {name}, with a new voice", f"{first_time:.2f} s")
            goal = "4.0 s" if kind is None else "3.5 s"
            table.add(f"{what}, {name}", f"**{spread(later, digits=2)}**", goal)
            with activated(settings) as port:
                for seconds in LENGTHS_S:
                    for count in STREAMS:
                        _hear_at_once(port, seconds, count)
                        wait_until_warm(port)
                        heard = summary(_hear_at_once(port, seconds, count))
                        goal = "first sound 0.12 s" if count == 1 else "no gap"
                        table.add(f"clients of the daemon: {count} of {seconds:g} s, {name}", heard, goal)


def dozing(table: Table) -> None:
    """From connect to the first byte while the model dozes, and what the card holds meanwhile."""
    for kind in table.kinds:
        with _laid_out(table, kind) as settings, activated([*settings, "step_audio.doze_after=1"]) as port:
            _hear_at_once(port, LENGTHS_S[0], 1)
            firsts = []
            for _ in range(DOZES):
                while status(port)["daemon"]["worker_state"] != "dozing":
                    time.sleep(0.1)
                held = f"{Card().used_gb():.2f} GB on the card"
                firsts.append(_hear_at_once(port, LENGTHS_S[0], 1)[0].first_s)
            first = f"**{spread(firsts, digits=2)}**; meanwhile {held}"
            table.add(f"connect → first byte, dozing, {name_of(kind)}", first, "2.2 s; 0.00 GB")


def memory(table: Table) -> None:
    """The most that the card shows from the start to 16 clients, in the memory that a setting allows."""
    for kind in table.kinds:
        limit, most = LIMITS[kind], MemoryNeeds.of(Checkpoint(table.models), "bf16", kind).most()
        goals = {limit: f"{limit[:-1]} GB", "auto": f"{most.total_bytes / 1e9:.2f} GB, as planned"}
        for setting, goal in goals.items():
            with (
                _laid_out(table, kind) as settings,
                Card().watched() as most_gb,
                activated([*settings, f"step_audio.gpu_memory={setting}"]) as port,
            ):
                for seconds in LENGTHS_S:
                    listeners = _hear_at_once(port, seconds, max(STREAMS))
                    wait_until_warm(port)
                held = status(port)[MODEL]
                name = f'clients of the daemon: {max(STREAMS)}, gpu_memory = "{setting}", {name_of(kind)}'
                reserved, allocated = (held[f"gpu_memory_{each}_gb"] for each in ("reserved", "allocated"))
                table.add(
                    name,
                    f"**{most_gb[0]:.2f} GB on the card**, of which PyTorch's {reserved:.2f}, in use "
                    f"{allocated:.2f}; {summary(listeners)}",
                    goal,
                )


@contextlib.contextmanager
def _laid_out(table: Table, kind: Quantization | None) -> Iterator[list[str]]:
    """Settings for a daemon with empty caches and a voice that isn't encoded yet."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = [f"data_dir={lay_out(folder, table.models)}", f"cache_dir={folder / 'cache'}"]
        settings += [f"engine={MODEL}", "step_audio.device=cuda", "step_audio.check_output=false"]
        settings += [f"step_audio.quantization={kind.value if kind else 'none'}", "log_level=warning"]
        yield [*settings, f"limits.concurrency={max(STREAMS)}"]
