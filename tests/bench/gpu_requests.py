"""Whole requests on a GPU: loading, memory, first audio, concurrency, memory growth.

A part of `python -m tests.bench.gpu`.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.decoder import step_graphs
from stepaudiod.editx.decoder.flow import make_noise
from stepaudiod.editx.decoder.vocoder import make_source_noise
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.memory_plan import MemoryNeeds, MemoryPlan
from stepaudiod.editx.pipeline import Edit, Pipeline, PipelineOptions, Reference, Synthesis
from stepaudiod.editx.reference import ReferenceEncoder
from stepaudiod.editx.segments import TimeRange
from stepaudiod.editx.synthesis import tf32_matmul
from stepaudiod.editx.tokenizers.linguistic import load_linguistic
from stepaudiod.editx.tokenizers.semantic import load_semantic
from stepaudiod.editx.tokenizers.speaker import load_speaker_encoder
from tests.bench.model import Bench
from tests.bench.table import Table, gpu_memory, own_memory, timed

CUDA = torch.device("cuda")
SAID = "The quick brown fox jumps over the lazy dog."
TEXT = "The quick brown fox jumps over the lazy dog, and then it goes on for a little while."


def load(
    table: Table, kind: Quantization | None, quantized: Path | None, options: PipelineOptions
) -> Pipeline:
    """Load everything while the host's memory is sampled."""
    name, most, done = kind.value if kind else "bf16", [own_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most.append(own_memory())

    before = most[0]
    torch.cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    pipeline = Pipeline.load(
        table.models,
        str(CUDA),
        quantization=kind,
        quantized_folder=quantized,
        options=options,
    )
    torch.cuda.synchronize()
    took = time.perf_counter() - start
    done.set()
    watcher.join()
    how = ", saved before" if quantized else ""
    table.add(
        f"loading, {name}{how}",
        f"{took:.1f} s; own memory of the host {before:.2f}, at most {max(most):.2f} GB",
    )
    return pipeline


def requests(table: Table) -> None:
    """Whole requests: loading, memory, first audio, gaps, growth."""
    _forget()  # what other suites left
    bench = Bench(Checkpoint(table.models), CUDA, torch.bfloat16, None, 6.0)
    waveform = bench.waveform()
    limits = {None: 9.5, Quantization.INT8: 6.0, Quantization.INT4: 4.5}
    for kind in table.kinds:
        limit = limits[kind]
        name = kind.value if kind else "bf16"
        quantized = table.quantized if kind else None
        needs = MemoryNeeds.of(Checkpoint(table.models), "bf16", kind)
        plan = needs.plan(None, torch.cuda.mem_get_info()[0])
        pipeline = load(table, kind, quantized, _options(plan))
        estimated = (plan.weights_bytes + plan.pool_bytes) / 1e9
        table.add(
            f"GPU memory after loading, {name}",
            f"{torch.cuda.memory_allocated() / 1e9:.2f} GB in use; estimated {estimated:.2f}; "
            f"{torch.cuda.memory_reserved() / 1e9:.2f} held",
        )
        torch.cuda.reset_peak_memory_stats()
        voice = pipeline.encode_reference(waveform, 24000, SAID)
        start = time.perf_counter()
        pipeline.clone(voice, TEXT, seed=1).waveform()
        table.add(f"first request after loading, {name}", f"{time.perf_counter() - start:.2f} s")
        _streams(table, pipeline, voice, name)
        table.add(f"GPU memory, one stream at a time, {name}", gpu_memory(), f"{limit:g} GB")
        _whole(table, pipeline, voice, waveform, name)
        if kind is None:
            _encode(table, pipeline, waveform)
            _decoder(table, pipeline, voice)
            _long_voice(table, pipeline, bench)
        table.add(f"GPU memory, all that and whole requests, {name}", gpu_memory(), f"{limit:g} GB")
        _many(table, pipeline, voice, name, plan)
        _one_by_one(table, pipeline, voice, name)
        if kind is None and table.is_long:
            _growth(table, pipeline, voice)
        del pipeline
        _forget()
        limited = needs.plan(int(limit * 1e9), torch.cuda.mem_get_info()[0])
        pipeline = load(table, kind, quantized, _options(limited))
        table.add(
            f"gpu_memory = {limit:g}G, {name}",
            f"{limited.positions} positions, {limited.decoder_bytes / 1e9:.2f} GB for voices and streams, "
            f"voices up to {limited.longest_voice_s:.0f} s",
        )
        _many(table, pipeline, voice, f"{name}, gpu_memory = {limit:g}G", limited)
        _voices(table, pipeline, bench, f"{name}, gpu_memory = {limit:g}G", limited)
        del pipeline, voice
        _forget()


def _options(plan: MemoryPlan) -> PipelineOptions:
    return PipelineOptions(
        is_output_checked=False, positions=plan.positions, decoder_bytes=plan.decoder_bytes
    )


def _forget() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _long_voice(table: Table, pipeline: Pipeline, bench: Bench) -> None:
    """A voice of 25 s, prefilled, and then shared."""
    long = replace(bench, seconds=25.0)
    voice = pipeline.encode_reference(long.waveform(), 24000, SAID * 4)
    for what in ("taken in now", "taken in before"):
        first, _ = _heard(pipeline.clone(voice, TEXT, seed=3))
        table.add(f"first sound of a stream, a voice of 25 s, {what}", f"{first * 1e3:.0f} ms")


def _encode(table: Table, pipeline: Pipeline, waveform: Tensor) -> None:
    took = timed(lambda: pipeline.encode_reference(waveform, 24000, SAID))
    table.add("a reference of 6 s, encoded", f"**{took * 1e3:.0f} ms**", "60 ms")
    tree, cpu = Checkpoint(table.models), torch.device("cpu")
    encoder = ReferenceEncoder(
        load_linguistic(tree.linguistic, tree.centroids, cpu),
        load_semantic(tree.semantic, cpu),
        load_speaker_encoder(tree.speaker_encoder, cpu),
    )
    whole = TimeRange(0.0, waveform.shape[0] / 24000)
    right = encoder.encode(waveform.cpu(), 24000, whole, "").ids
    made = pipeline.encode_reference(waveform, 24000).ids
    apart = sum(a != b for a, b in zip(made, right, strict=True))
    table.add("codes other than the CPU's", f"{apart} of {len(right)}", "near ties")


def _decoder(table: Table, pipeline: Pipeline, voice: Reference) -> None:
    """Decode ten seconds of codes."""
    flow, vocoder = pipeline.networks.flow, pipeline.networks.vocoder
    codes = torch.tensor([100, 200, 1100, 1200, 1300] * 83)
    columns = to_columns(codes)
    noise = make_noise(0, 1200).to(CUDA)

    def mel() -> Tensor:
        with tf32_matmul():
            made: Tensor = flow(columns, voice.acoustics, noise)
            return made

    graphs, flow.graphs = flow.graphs, None
    right = flow(columns, voice.acoustics, noise)
    exact_s = timed(lambda: flow(columns, voice.acoustics, noise), 3, 1)
    flow.graphs = graphs
    made = mel()
    source = make_source_noise(480 * made.shape[1], torch.Generator().manual_seed(0)).to(CUDA)
    flow_s, sound_s = timed(mel), timed(lambda: vocoder(made, source))
    off = float((right - made).square().mean().sqrt())
    table.add("flow, 10 s, kernel by kernel, products in float32", f"{exact_s * 1e3:.0f} ms")
    table.add("flow, 10 s, in graphs, products in TF32", f"{flow_s * 1e3:.0f} ms; mel off by {off:.4f} (rms)")
    table.add("vocoder, 10 s", f"{sound_s * 1e3:.0f} ms")
    table.add("10 s of sound from codes", f"**{(flow_s + sound_s) * 1e3:.0f} ms**", "150 ms")


def _streams(table: Table, pipeline: Pipeline, voice: Reference, name: str) -> None:
    """First audio, and the minimum time by which a chunk precedes its playback."""
    results = [_heard(pipeline.clone(voice, TEXT, seed=seed)) for seed in range(2, 9)]
    firsts, spares = [first for first, _ in results], [spare for _, spare in results]
    table.add(
        f"first sound of a stream, {name}",
        f"**{statistics.median(firsts) * 1e3:.0f} ms** ({min(firsts) * 1e3:.0f} to {max(firsts) * 1e3:.0f})",
        "300 ms",
    )
    table.add(f"the latest chunk comes early by, {name}", f"{min(spares):.2f} s", "never late")
    anew = []
    for seed in range(2, 7):
        pipeline._synthesizer._prefixes._voices.clear()
        anew.append(_heard(pipeline.clone(voice, TEXT, seed=seed))[0])
    table.add(
        f"the same, the voice encoded and not taken in yet, {name}",
        f"{statistics.median(anew) * 1e3:.0f} ms ({min(anew) * 1e3:.0f} to {max(anew) * 1e3:.0f})",
        "300 ms",
    )


def _heard(result: Synthesis) -> tuple[float, float]:
    """The time of a stream's first audio, and the minimum lead of its chunks."""
    start = time.perf_counter()
    first = heard = 0.0
    spare = float("inf")
    for chunk in result:
        at = time.perf_counter() - start
        if chunk.size and not first:
            first = at
        elif chunk.size:
            spare = min(spare, first + heard - at)
        heard += chunk.size / 24000
    return first, spare


def _whole(table: Table, pipeline: Pipeline, voice: Reference, waveform: Tensor, name: str) -> None:
    edit = Edit("emotion", "happy")
    for what, result in (
        ("clone", pipeline.clone(voice, TEXT, seed=1)),
        ("edit of 6 s", pipeline.edit(waveform, 24000, SAID, edit, seed=1)),
    ):
        start = time.perf_counter()
        seconds = result.waveform().shape[0] / 24000
        took = time.perf_counter() - start
        tokens = result.stats.output_tokens
        table.add(f"{what}, {name}", f"{seconds:.1f} s of sound in {took:.2f} s, {tokens} tokens")


def _one_by_one(table: Table, pipeline: Pipeline, voice: Reference, name: str) -> None:
    """The gain of decoding up to four chunks at a time, for one stream and for sixteen."""
    most = step_graphs.MAX_SLOTS
    for streams in (1, 16):
        for slots in (most, 1):
            step_graphs.MAX_SLOTS = slots
            for _ in range(2):
                start = time.perf_counter()
                seconds = _in_turn([pipeline.clone(voice, TEXT * 3, seed=seed) for seed in range(streams)])
                took = time.perf_counter() - start
            table.add(
                f"{streams} streams of long texts, up to {slots} chunks at a time, {name}",
                f"{seconds:.0f} s of sound in {took:.1f} s, {seconds / took:.1f} times real time",
            )
    step_graphs.MAX_SLOTS = most


def _many(table: Table, pipeline: Pipeline, voice: Reference, name: str, plan: MemoryPlan) -> None:
    """Sixteen streams in one thread, of short and of long texts; measured on the second run."""
    for what, text in (("", TEXT), (" of long texts", TEXT * 3)):
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            start = time.perf_counter()
            seconds = _in_turn([pipeline.clone(voice, text, seed=seed) for seed in range(16)])
            took = time.perf_counter() - start
        table.add(
            f"16 streams{what} in one thread, {name}",
            f"{seconds:.0f} s of sound in {took:.1f} s, {seconds / took:.1f} times real time",
        )
        table.add(
            f"GPU memory, 16 streams{what} at once, {name}", gpu_memory(), f"{plan.total_bytes / 1e9:.2f} GB"
        )


def _voices(table: Table, pipeline: Pipeline, bench: Bench, name: str, plan: MemoryPlan) -> None:
    """Voices of every length that fits, two streams each, shortest first."""
    torch.cuda.reset_peak_memory_stats()
    lengths = [
        seconds for seconds in (1.5, 2.5, 4.0, 6.0, 9.0, 13.0, 17.0) if seconds <= plan.longest_voice_s
    ]
    for seconds in lengths:
        waveform = replace(bench, seconds=seconds).waveform()
        voice = pipeline.encode_reference(waveform, 24000, SAID)
        _in_turn([pipeline.clone(voice, TEXT, seed=seed) for seed in range(2)])
    table.add(
        f"GPU memory, {len(lengths)} voices of up to {lengths[-1]:g} s one after the other, {name}",
        gpu_memory(),
        f"{plan.total_bytes / 1e9:.2f} GB",
    )


def _in_turn(results: list[Synthesis]) -> float:
    """Step requests in turn, as the worker does; returns their seconds of audio."""
    parts, samples = [iter(result) for result in results], 0
    while parts:
        for part in list(parts):
            chunk = next(part, None)
            if chunk is None:
                parts.remove(part)
            else:
                samples += chunk.shape[0]
    return samples / 24000


def _growth(table: Table, pipeline: Pipeline, voice: Reference) -> None:
    """Memory over 200 requests of different lengths, eight at a time."""
    sizes = []
    for group in range(25):
        texts = [TEXT[: 10 + (7 * (8 * group + i)) % len(TEXT)] for i in range(8)]
        _in_turn([pipeline.clone(voice, t, seed=group) for i, t in enumerate(texts)])
        if group in (5, 24):
            sizes.append((torch.cuda.memory_reserved() / 1e9, own_memory()))
    table.add(
        "held after 48 and after 200 requests",
        f"GPU {sizes[0][0]:.2f} and {sizes[1][0]:.2f} GB, host {sizes[0][1]:.2f} and {sizes[1][1]:.2f} GB",
        "no growth",
    )
