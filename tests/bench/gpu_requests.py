"""Requests to the pipeline on a GPU: streams beside each other, whole outputs, and where the time goes.

A part of `python -m tests.bench.gpu`.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.memory_plan import CONTEXT_BYTES, MemoryNeeds
from stepaudiod.editx.pipeline import SAMPLE_RATE, Pipeline, PipelineOptions, Reference
from tests.bench.endless import text_of
from tests.bench.listeners import LENGTHS_S, STREAMS, Listener, summary
from tests.bench.model import Bench
from tests.bench.table import Card, Table, name_of, timed

CUDA = torch.device("cuda")
SAID = "The quick brown fox jumps over the lazy dog."
VOICE_S = 6.0
KERNELS = 15
FIRST_SOUND = {1: "first sound 0.10 s", 4: "first sound 0.15 s", 16: "first sound 0.35 s (0.6 at most)"}
RATES = {(1, 3.6): "8 times (9.5), ", (1, 9.6): "8.8 times (11), "} | dict.fromkeys(
    ((16, 3.6), (16, 9.6)), "75 times (90), "
)
"""To reach on an H100, and on an H200."""


def streams(table: Table) -> None:
    """1, 4 and 16 streams, and as many requests without streaming."""
    for kind in table.kinds:
        with _loaded(table, kind) as (pipeline, voice):
            name = name_of(kind)
            for seconds in LENGTHS_S:
                for count in STREAMS:
                    _warm_up(pipeline, voice, count, seconds)
                    heard = summary(listen(pipeline, voice, count, seconds))
                    goal = f"{RATES.get((count, seconds), '')}{FIRST_SOUND[count]}, no gap"
                    table.add(f"streams: {count} of {seconds:g} s, {name}", heard, goal)
            for count in STREAMS:
                _warm_up(pipeline, voice, count, LENGTHS_S[-1], is_streamed=False)
                listeners = listen(pipeline, voice, count, LENGTHS_S[-1], is_streamed=False)
                goal = "85 times (110)" if count == max(STREAMS) else "–"
                what = f"requests without streaming: {count} of {LENGTHS_S[-1]:g} s, {name}"
                table.add(what, summary(listeners).partition(";")[0], goal)
            table.add(f"memory after all of that, {name}", f"{Card().used_gb():.2f} GB on the card")


def parts(table: Table) -> None:
    """What the runners' calls and the kernels take. Language model and decoder run beside each other."""
    for kind in table.kinds:
        with _loaded(table, kind) as (pipeline, voice):
            scheduler, spent = pipeline.scheduler, defaultdict[str, list[float]](list)
            for part, runner in (("codes", scheduler._language_model), ("sound", scheduler._decoder)):
                for name in ("prefill", "decode"):
                    # codes are computed ahead of the call that reads them
                    is_synchronous = (part, name) != ("codes", "decode")
                    times = spent[f"{part}: {name}"]
                    setattr(runner, name, partial(_spend, times, is_synchronous, getattr(runner, name)))
            for count in (1, max(STREAMS)):
                run = partial(listen, pipeline, voice, count, LENGTHS_S[-1])
                _warm_up(pipeline, voice, count, LENGTHS_S[-1])
                what = f"streams: {count} of {LENGTHS_S[-1]:g} s, {name_of(kind)}"
                for times in spent.values():
                    times.clear()
                table.add(what, summary(run()))
                for part, times in spent.items():
                    mean_ms = 1e3 * sum(times) / max(len(times), 1)
                    calls = f"{sum(times):.2f} s in {len(times)} calls, {mean_ms:.1f} ms each"
                    table.add(f"{what}, {part}", calls)
                what = f"streams: {count} of {LENGTHS_S[0]:g} s, {name_of(kind)}"
                _kernels(table, what, partial(listen, pipeline, voice, count, LENGTHS_S[0]))


def listen(
    pipeline: Pipeline, voice: Reference, count: int, seconds: float, is_streamed: bool = True
) -> list[Listener]:
    """Run requests at once until all have ended."""
    started, text, scheduler = time.perf_counter(), text_of(seconds), pipeline.scheduler
    listeners = {
        pipeline.clone(voice, text, seed=seed, is_streamed=is_streamed): Listener(started)
        for seed in range(count)
    }
    left = list(listeners)
    while left:
        for synthesis in [each for each in left if each.is_ready]:
            if (chunk := next(synthesis, None)) is None:
                left.remove(synthesis)
            else:
                listeners[synthesis].hear(chunk.size / SAMPLE_RATE, time.perf_counter())
        if not scheduler.step() and left and not any(each.is_ready for each in left):
            scheduler.lanes.wait()
    return list(listeners.values())


def _warm_up(
    pipeline: Pipeline, voice: Reference, count: int, seconds: float, is_streamed: bool = True
) -> None:
    """Run requests, and let the idle runners capture the graphs that were missed."""
    listen(pipeline, voice, count, seconds, is_streamed)
    scheduler = pipeline.scheduler
    scheduler.step()
    while not (scheduler.lanes.language_model.is_free and scheduler.lanes.decoder.is_free):
        scheduler.lanes.wait()
        scheduler.step()


@contextlib.contextmanager
def _loaded(table: Table, kind: Quantization | None) -> Iterator[tuple[Pipeline, Reference]]:
    """A pipeline with the memory that it takes by itself, and a voice."""
    checkpoint = Checkpoint(table.models)
    plan = MemoryNeeds.of(checkpoint, "bf16", kind).plan(None, torch.cuda.mem_get_info()[0] + CONTEXT_BYTES)
    options = PipelineOptions(
        is_output_checked=False,
        positions=plan.positions,
        decoder_bytes=plan.decoder_bytes,
        keeps_encoders=plan.keeps_encoders,
    )
    pipeline = Pipeline.load(
        table.models, "cuda", quantization=kind, options=options, quantized_folder=checkpoint.quantized
    )
    waveform = Bench(checkpoint, CUDA, torch.bfloat16, None, VOICE_S).waveform()
    encode = partial(pipeline.encode_reference, waveform, SAMPLE_RATE, SAID)
    table.add(
        f"a reference of {VOICE_S:g} s, encoded, {name_of(kind)}", f"{timed(encode) * 1e3:.0f} ms", "60 ms"
    )
    yield pipeline, encode()
    pipeline.scheduler.lanes.settle()
    del pipeline, encode
    gc.collect()
    torch.cuda.empty_cache()


def _spend(times: list[float], is_synchronous: bool, method: Callable[..., Any], *arguments: object) -> Any:
    start = time.perf_counter()
    result = method(*arguments)
    if is_synchronous:
        torch.cuda.current_stream().synchronize()
    times.append(time.perf_counter() - start)
    return result


def _kernels(table: Table, what: str, run: Callable[[], object]) -> None:
    """The kernels that take most of the card's time."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        run()
        wall = time.perf_counter() - start
    kernels = sorted(profiler.key_averages(), key=lambda each: -each.self_device_time_total)
    busy = sum(each.self_device_time_total for each in kernels) / 1e6
    table.add(f"{what}: all kernels, profiled", f"{busy:.2f} s, by two streams, in {wall:.2f} s")
    for each in kernels[:KERNELS]:
        total = each.self_device_time_total
        took = f"{total / 1e3:.0f} ms in {each.count}, {total / each.count:.1f} µs each"
        table.add(f"{what}: {each.key[:60].replace('|', '/')}", took)
