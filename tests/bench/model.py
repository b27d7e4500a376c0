"""Measure the model's stages: `python -m tests.bench.model --models DIR [--device cuda] [--only vq02]`.

CPU seconds are the process's own, so they hold while others use the machine. Weights may be random.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.decoder.config import LOOKAHEAD_CODES
from stepaudiod.editx.decoder.flow import Acoustics, load_flow
from stepaudiod.editx.decoder.runner import Chunk
from stepaudiod.editx.decoder.vocoder import build_vocoder, read_vocoder
from stepaudiod.editx.interleaving import to_columns
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.lm.quantize import size_bytes
from stepaudiod.editx.loading import LoadProgress, load_step1
from stepaudiod.editx.pipeline import Edit, Pipeline, PipelineOptions
from stepaudiod.editx.runners import make_decoder_runner
from stepaudiod.editx.tokenizers import features
from stepaudiod.editx.tokenizers.linguistic import build_linguistic, read_linguistic
from stepaudiod.editx.tokenizers.resample import resample
from stepaudiod.editx.tokenizers.semantic import build_semantic, read_semantic
from stepaudiod.editx.tokenizers.speaker import build_speaker_encoder, read_speaker_encoder
from tests.parity.language import logits

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Bench:
    """The measured model and device."""

    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    quantization: Quantization | None
    seconds: float

    def waveform(self) -> Tensor:
        """A speech-like waveform at 24 kHz."""
        t = torch.arange(int(self.seconds * 24000)) / 24000
        pitch = 140 + 30 * torch.sin(2 * torch.pi * 0.7 * t)
        phase = torch.cumsum(pitch / 24000, 0) * 2 * torch.pi
        voice = sum(torch.sin(k * phase) / k for k in range(1, 12))
        return (0.1 * voice * (0.6 + 0.4 * torch.sin(2 * torch.pi * 3 * t))).to(self.device)

    def timed(self, name: str, run: Callable[[], object], repeats: int = 3, per: str = "") -> None:
        """Run several times and print the best wall and CPU time."""
        run()
        walls, cpus = [], []
        for _ in range(repeats):
            self._wait()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            self._wait()
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        print(f"{name}: {min(walls):.3f} s wall, {min(cpus):.3f} s CPU{per}", flush=True)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def memory() -> str:
    """Print the process's anonymous, file and GPU memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1e6 for line in status if line.startswith("Rss")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    gpu = (
        f", GPU {torch.cuda.max_memory_allocated() / 1e9:.2f} GB at most" if torch.cuda.is_available() else ""
    )
    own, mapped = sizes["RssAnon"], sizes["RssFile"]
    return f"own memory {own:.2f} GB, mapped files {mapped:.2f} GB, peak {peak:.2f} GB{gpu}"


def vq02(bench: Bench) -> None:
    """Linguistic codes."""
    path = bench.checkpoint.linguistic
    tokenizer = build_linguistic(read_linguistic(path, bench.checkpoint.centroids), path, bench.device)
    trimmed = features.trim_for_codes(resample(bench.waveform(), 24000, features.CODE_RATE, torch.float64))
    bench.timed(f"vq02, {bench.seconds:g} s", lambda: tokenizer(trimmed))


def vq06(bench: Bench) -> None:
    """Semantic codes."""
    path = bench.checkpoint.semantic
    tokenizer = build_semantic(read_semantic(path), path, bench.device)
    trimmed = features.trim_for_codes(resample(bench.waveform(), 24000, features.CODE_RATE, torch.float64))
    bench.timed(f"vq06, {bench.seconds:g} s", lambda: tokenizer(trimmed))


def speaker(bench: Bench) -> None:
    """The speaker embedding."""
    path = bench.checkpoint.speaker_encoder
    encoder = build_speaker_encoder(read_speaker_encoder(path), path, bench.device)
    waveform = resample(bench.waveform(), 24000, features.CODE_RATE, torch.float64)
    bench.timed(f"speaker embedding, {bench.seconds:g} s", lambda: encoder.embed(waveform))


def decode(bench: Bench) -> None:
    """One step of the language model, and the prefill of a prompt."""
    start = time.perf_counter()
    model = load_step1(bench.checkpoint, bench.device, bench.dtype, bench.quantization)
    took = time.perf_counter() - start
    print(f"loaded in {took:.1f} s, {size_bytes(model) / 1e9:.2f} GB; {memory()}")
    prompt = torch.randint(65536, 70656, (400,)).tolist()
    cache = model.new_cache(1024)
    bench.timed("prompt of 400", lambda: model.prefill(prompt, cache), repeats=1)

    def step() -> Tensor:
        return model.prefill([66000], cache, start=410)

    bench.timed("one step at 410", lambda: model.audio_logits(step()))
    bench.timed("the same, whole vocabulary", lambda: logits(model, step()))
    print(memory())


def fidelity(bench: Bench) -> None:
    """The error of a quantized language model against the full one, on the same prompt."""
    full = load_step1(bench.checkpoint, bench.device, bench.dtype)
    prompt = torch.randint(65536, 70656, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    right = full.audio_logits(full.prefill(prompt, full.new_cache(256)))
    for kind in Quantization:
        model = load_step1(bench.checkpoint, bench.device, bench.dtype, kind)
        size = size_bytes(model)
        made = model.audio_logits(model.prefill(prompt, model.new_cache(256)))
        off = float((made - right).square().mean().sqrt() / right.std())
        same = float((made.argmax(1) == right.argmax(1)).float().mean())
        print(f"{kind.value}: {size / 1e9:.2f} GB, logits off by {off:.3f} of their spread, {same:.0%} alike")


def decoder(bench: Bench) -> None:
    """Decode codes to sound, 5.4 s in chunks after a reference of 5.4 s."""
    path = bench.checkpoint.vocoder
    vocoder = build_vocoder(read_vocoder(path), path, bench.device)
    runner = make_decoder_runner(load_flow(bench.checkpoint.flow, bench.device), vocoder)
    codes = [100, 200, 1100, 1200, 1300] * 45
    acoustics = Acoustics(to_columns(torch.tensor(codes)), torch.randn(270, 80), torch.randn(192))
    bench.timed("a reference of 5.4 s", lambda: runner.prefill(acoustics), repeats=1)
    prefix = runner.prefill(acoustics)

    def speak() -> None:
        stream = runner.open(prefix, 1, 200)
        for begin, end in ((0, 10), (10, 30), (30, 70), (70, 150)):
            runner.decode([Chunk(stream, codes[begin : end + LOOKAHEAD_CODES], is_last=False)])
        runner.decode([Chunk(stream, codes[150:], is_last=True)])

    bench.timed("5.4 s of sound in 5 chunks", speak, repeats=1)


def requests(bench: Bench) -> None:
    """Whole requests: load, encode, clone, edit; unchecked, since weights may be random."""
    stages: dict[str, float] = {}
    start = time.perf_counter()

    def note(progress: LoadProgress) -> None:
        stages.setdefault(progress.stage, time.perf_counter() - start)

    options = PipelineOptions(is_output_checked=False)
    pipeline = Pipeline.load(
        bench.checkpoint.root, str(bench.device), bench.dtype, bench.quantization, note, options
    )
    print(f"everything loaded in {time.perf_counter() - start:.1f} s; stages began at", end=" ")
    print(", ".join(f"{name} {at:.1f}" for name, at in stages.items()))
    print(memory())
    said, waveform = "The quick brown fox jumps over the lazy dog.", bench.waveform()
    voice = pipeline.encode_reference(waveform, 24000, said)
    bench.timed("encode a reference", lambda: pipeline.encode_reference(waveform, 24000, said), repeats=1)
    for name, result in (
        ("clone", pipeline.clone(voice, said, seed=1)),
        ("edit", pipeline.edit(waveform, 24000, said, Edit("emotion", "happy"), seed=1)),
    ):
        start = time.perf_counter()
        seconds = result.waveform().shape[0] / 24000
        took = time.perf_counter() - start
        tokens = result.stats.output_tokens
        print(f"{name}: {seconds:.2f} s of sound in {took:.2f} s, {tokens} tokens; {memory()}")


SUITES: dict[str, Callable[[Bench], None]] = {
    "vq02": vq02,
    "vq06": vq06,
    "speaker": speaker,
    "decode": decode,
    "fidelity": fidelity,
    "decoder": decoder,
    "requests": requests,
}


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.model", description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--quantization", choices=["int8", "int4"])
    parser.add_argument("--only", default="vq02,vq06,speaker,decode,decoder")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    bench = Bench(
        Checkpoint(options.models),
        torch.device(options.device),
        DTYPES[options.dtype],
        Quantization.named(options.quantization),
        options.seconds,
    )
    for name in options.only.split(","):
        SUITES[name](bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
