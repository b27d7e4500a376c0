"""Measure the model on a GPU: `python -m tests.bench.gpu --models DIR [--only decoding,batch,...]`.

Weights may be random. Times are medians after a warm-up; the table comes last. Each number stands beside what
is to be reached; decoding also beside the reference's way, run in the same process on the same weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_BASE, AUDIO_CODES, END_OF_TURN
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.lm.cuda_scheduler import CudaBatch
from stepaudiod.editx.lm.sampling import TEMPERATURE, Sampler
from stepaudiod.editx.lm.scheduler import Batch
from stepaudiod.editx.lm.step1 import Step1ForCausalLM
from stepaudiod.editx.loading import load_step1, write_quantized
from tests.bench.gpu_requests import CUDA, requests
from tests.bench.table import Table, timed
from tests.bench.theirs import TheirDecoder
from tests.editx.batches import join

GREEDY = 0.0


def prompt_of(length: int) -> list[int]:
    """A prompt of random codes."""
    generator = torch.Generator().manual_seed(0)
    return [1, 4, 2323, 78, *torch.randint(65536, 70656, (length - 4,), generator=generator).tolist()]


def tokens_a_second(batch: Batch, prompt: list[int], requests: int, tokens: int) -> float:
    """Of all requests together, each read in turn, as one thread serves them."""
    sequences = [join(batch, prompt, seed, tokens, 1.0) for seed in range(requests)]
    for sequence in sequences:
        next(sequence.tokens, None)
    count, start = 0, time.perf_counter()
    left = list(sequences)
    while left:
        for sequence in list(left):
            for _ in range(8):
                if next(sequence.tokens, None) is None:
                    left.remove(sequence)
                    break
                count += 1
        if len(left) < requests:  # those that ended early would make it look slower
            break
    took = time.perf_counter() - start
    for sequence in sequences:
        batch.leave(sequence)
    return count / took


def decoding(table: Table) -> None:
    """Tokens per second of one sequence and of sixteen; the ids equal those of single steps."""
    for kind in table.kinds:
        wanted = "–" if kind is Quantization.INT4 else "more than bf16" if kind else "280, aim 350"
        model = load_step1(Checkpoint(table.models), CUDA, torch.bfloat16, kind, table.quantized)
        _rates(table, model, kind.value if kind else "bf16", wanted)
        del model
        torch.cuda.empty_cache()


def _rates(table: Table, model: Step1ForCausalLM, name: str, wanted: str) -> None:
    prompt = prompt_of(400)
    if name == "bf16":
        TheirDecoder(model).decode(prompt, 3)
        took = timed(lambda: TheirDecoder(model).decode(prompt, 20), 1, 0)
        table.add("the reference's way, bf16, prompt and 20 tokens", f"{20 / took:.0f} tokens/s")
    steps = tokens_a_second(Batch(model, 1, 1024), prompt, 1, 40)
    batch = CudaBatch(model, 16, 1024, 16384)
    start = time.perf_counter()
    tokens_a_second(batch, prompt, 1, 20)
    first = time.perf_counter() - start
    for count in (2, 16):
        tokens_a_second(batch, prompt, count, 10)
    one, all_ = (tokens_a_second(batch, prompt, count, 400) for count in (1, 16))
    table.add(f"decoding, {name}, step by step in PyTorch", f"{steps:.0f} tokens/s")
    table.add(f"decoding, {name}, one sequence", f"**{one:.0f} tokens/s**", wanted)
    table.add(
        f"decoding, {name}, 16 sequences", f"**{all_:.0f} tokens/s, {all_ / one:.1f} times**", "8 times"
    )
    table.add(f"kernels and graph of the first request, {name}", f"{first:.2f} s")
    read = timed(lambda: model.prefill(prompt, model.new_cache(1, len(prompt))))
    table.add(f"reading a prompt of 400, {name}", f"{read * 1e3:.0f} ms")
    _same_ids(table, model, prompt, name)


def _same_ids(table: Table, model: Step1ForCausalLM, prompt: list[int], name: str) -> None:
    """Compare greedy ids with single steps, and batched with unbatched ones."""
    ids = _ids(CudaBatch(model, 1, 1024, 2048), prompt, GREEDY, 0)
    cache = model.new_cache(1, 1024)
    hidden = model.prefill(prompt, cache)[-1]
    apart, margins = 0, [0.0]
    sampler = Sampler(GREEDY, 0, prompt)
    for index, token in enumerate(ids):
        scores = model.audio_logits(hidden)
        chosen = sampler.choose(scores)
        if chosen != token:
            apart += 1
            margins.append(float(scores[_place(chosen)] - scores[_place(token)]))
        sampler.history[-1] = token
        at = torch.tensor([len(prompt) + index], device=CUDA)
        hidden = model.decode(torch.tensor([token], device=CUDA), at, cache, int(at) + 1)[0]
    worst = f", where the scores are {max(margins):.3f} apart or less" if margins else ""
    table.add(
        f"greedy ids other than single steps choose, {name}", f"{apart} of {len(ids)}{worst}", "near ties"
    )
    batch = CudaBatch(model, 16, 1024, 16384)
    alone = [_ids(CudaBatch(model, 1, 1024, 2048), prompt, TEMPERATURE, seed) for seed in range(3)]
    open_ = [join(batch, prompt_of(100 + 20 * i), 50 + i, 60) for i in range(9)]
    beside = [_ids(batch, prompt, TEMPERATURE, seed) for seed in range(3)]
    for sequence in open_:
        batch.leave(sequence)
    table.add(
        f"a seed's ids alone and beside nine others, {name}",
        "the same" if alone == beside else "OTHERS",
        "the same",
    )


def _place(token: int) -> int:
    """The rank of a token among `audio_logits`."""
    return AUDIO_CODES if token == END_OF_TURN else token - AUDIO_BASE


def _ids(batch: Batch, prompt: list[int], temperature: float, seed: int) -> list[int]:
    with join(batch, prompt, seed, 150, temperature) as sequence:
        return list(sequence)


def accuracy(table: Table) -> None:
    """The error of bf16 against float32, with our kernels and with PyTorch's, after one token."""
    prompt, checkpoint = prompt_of(400), Checkpoint(table.models)
    model = load_step1(checkpoint, CUDA, torch.float32)
    right = model.audio_logits(model.prefill(prompt, model.new_cache(1, 400), block=400)[-1])
    exact = _ids(CudaBatch(model, 1, 1024, 2048), prompt, GREEDY, 0)[:60]
    steps = _ids(Batch(model, 1, 1024), prompt, GREEDY, 0)[:60]
    table.add(
        "greedy ids in float32, rounds and single steps",
        f"{sum(map(int.__eq__, exact, steps))} of {len(steps)} alike",
        "all",
    )
    del model
    torch.cuda.empty_cache()
    for kind in table.kinds:
        model = load_step1(checkpoint, CUDA, torch.bfloat16, kind, table.quantized)
        made = model.audio_logits(model.prefill(prompt, model.new_cache(1, 400))[-1])
        off = float((made - right).square().mean().sqrt() / right.std())
        name = kind.value if kind else "bf16"
        table.add(f"logits of {name} against float32", f"off by {off:.3f} of their spread")
        del model
        torch.cuda.empty_cache()


SUITES: dict[str, Callable[[Table], None]] = {
    "decoding": decoding,
    "accuracy": accuracy,
    "requests": requests,
}


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--quantized", type=Path, required=True, help="a folder for quantized weights")
    parser.add_argument("--only", default=",".join(SUITES))
    parser.add_argument("--kinds", default="bf16,int8,int4")
    parser.add_argument("--long", action="store_true", help="200 requests too")
    options = parser.parse_args(arguments)
    kinds = tuple(Quantization.named("none" if k == "bf16" else k) for k in options.kinds.split(","))
    table = Table(options.models, options.quantized, kinds, options.long)
    print(torch.cuda.get_device_name(), torch.__version__)
    for kind in kinds:
        if kind and not list(options.quantized.glob(f"*{kind.value}*")):
            start = time.perf_counter()
            path = write_quantized(Checkpoint(options.models), kind, options.quantized)
            took = time.perf_counter() - start
            table.add(
                f"quantizing once on the CPU, {kind.value}",
                f"{took:.0f} s, {path.stat().st_size / 1e9:.2f} GB",
            )
    for name in options.only.split(","):
        SUITES[name](table)
    table.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
