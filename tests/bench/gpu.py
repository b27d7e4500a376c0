"""Measure the model on a GPU: `python -m tests.bench.gpu --models DIR [--only language,streams,...]`.

Weights may be random: outputs have the lengths that are asked of them, see `endless.py`. Times are medians
after a warm-up; the table comes last. Each number stands beside what is to be reached; decoding also beside
the reference's way, run in the same process on the same weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import GROUP
from stepaudiod.editx.lm import runner as lm
from stepaudiod.editx.lm.config import DEFAULT_LENGTH, DEFAULT_POSITIONS, Quantization
from stepaudiod.editx.lm.sampling import TEMPERATURE
from stepaudiod.editx.lm.step1 import Step1ForCausalLM
from stepaudiod.editx.loading import load_step1, write_quantized
from stepaudiod.editx.runners import make_lm_runner
from tests.bench.endless import write_endless
from tests.bench.gpu_daemon import daemon, dozing, memory
from tests.bench.gpu_requests import parts, streams
from tests.bench.measure import machine
from tests.bench.table import Table, name_of, timed
from tests.bench.theirs import TheirDecoder

CUDA = torch.device("cuda")
TOKENS = 400
PROMPT, VOICE = 400, 350
"""Ids of a prompt, and those at its beginning that all prompts of a voice share."""
PIECE = 512
"""Ids of prompts that are read in one call."""
CARD = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
TO_REACH = {"bf16": "400 (510 on an H200)", "int8": "550", "int4": "600"}


@torch.inference_mode()
def language(table: Table) -> None:
    """The language model alone: tokens per second, prompts, ids alone and beside others."""
    source, target = torch.empty(2, 1 << 31, dtype=torch.uint8, device=CUDA)
    bandwidth = 2 * source.numel() / timed(partial(target.copy_, source))
    table.add("bandwidth of a copy, read and written", f"{bandwidth / 1e12:.2f} TB/s")
    del source, target
    for kind in table.kinds:
        checkpoint = Checkpoint(table.models)
        model = load_step1(checkpoint, CUDA, torch.bfloat16, kind, checkpoint.quantized)
        if kind is None:
            took = timed(partial(_reference, model), 1, 1)
            table.add("the reference's way, bf16, prompt and 20 tokens", f"{20 / took:.0f} tokens/s")
        read_bytes = sum(each.nbytes for each in model.state_dict().values() if each.is_cuda)
        runner = make_lm_runner(model, None, DEFAULT_LENGTH, DEFAULT_POSITIONS)
        _language(table, runner, name_of(kind), read_bytes / bandwidth)
        del model, runner
        torch.cuda.empty_cache()


def _language(table: Table, runner: lm.LMRunner, name: str, least_s: float) -> None:
    start = time.perf_counter()
    _decode(runner, 1, 2 * GROUP)
    table.add(f"kernels and graphs of the first request, {name}", f"{time.perf_counter() - start:.2f} s")
    start = time.perf_counter()
    while runner.capture_next():
        pass
    table.add(f"all other graphs, {name}", f"{time.perf_counter() - start:.2f} s")
    for count in (1, 4, runner.rows):
        _decode(runner, count, 4 * GROUP)
        rate, ids = _decode(runner, count, TOKENS)
        share = f", {rate * least_s:.0%} of the copy's bandwidth" if count == 1 else ""
        goal = TO_REACH[name] if count == 1 else "–"
        table.add(f"sequences: {count}, {name}", f"**{rate:.0f} tokens/s**{share}", goal)
    is_same = all(_decode(runner, 1, TOKENS, seed)[1] == [ids[seed]] for seed in (0, 7))
    what = f"a seed's ids alone and beside {runner.rows - 1} others, {name}"
    table.add(what, "the same" if is_same else "OTHERS", "the same")
    voices = iter(range(1, 100))
    for count, goal in ((1, "10 ms"), (runner.rows, "–")):
        took = timed(partial(_read, runner, count, voices))
        table.add(
            f"prompts of {PROMPT} ids of a new voice: {count}, {name}", f"**{took * 1e3:.1f} ms**", goal
        )


def _read(runner: lm.LMRunner, count: int, voices: Iterator[int]) -> None:
    _release(runner, _admit(runner, count, GROUP, voice=next(voices)))


def _reference(model: Step1ForCausalLM) -> None:
    TheirDecoder(model).decode(prompt_of(0), 20)


def prompt_of(seed: int, voice: int = 0) -> list[int]:
    """A prompt of random codes; those of a voice begin alike."""
    codes: list[int] = []
    for size, drawn in ((VOICE - 4, voice), (PROMPT - VOICE, 1000 + seed)):
        generator = torch.Generator().manual_seed(drawn)
        codes += torch.randint(65536, 70656, (size,), generator=generator).tolist()
    return [1, 4, 2323, 78, *codes]


def _admit(runner: lm.LMRunner, count: int, tokens: int, first: int = 0, voice: int = 0) -> list[lm.Sequence]:
    """Sequences of one voice and so many ids, with their prompts read; seeds count from `first`."""
    sequences = []
    for row in range(count):
        prompt = prompt_of(first + row, voice)
        sequence = lm.Sequence(prompt, first + row, TEMPERATURE, tokens, tokens, slot=row)
        sequence.allocation = runner.pages.allocate(prompt, sequence.positions)
        assert sequence.allocation is not None
        sequence.read = sequence.allocation.known
        sequences.append(sequence)
    while left := [each for each in sequences if not each.is_read]:
        room, pieces = PIECE, []
        for sequence in left:
            size = min(len(sequence.prompt) - 1 - sequence.read, room)
            pieces += [(sequence, size)] if size else []
            room -= size
        runner.prefill(pieces)
    return sequences


def _release(runner: lm.LMRunner, sequences: list[lm.Sequence]) -> None:
    for sequence in sequences:
        assert sequence.allocation is not None
        runner.pages.release(sequence.allocation)


def _decode(runner: lm.LMRunner, count: int, tokens: int, first: int = 0) -> tuple[float, list[list[int]]]:
    """Tokens per second of all sequences together, their prompts read before, and their ids."""
    sequences = _admit(runner, count, tokens, first)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(tokens // GROUP):
        runner.decode(sequences)
    took = time.perf_counter() - start
    _release(runner, sequences)
    return count * tokens / took, [sequence.ids for sequence in sequences]


SUITES: dict[str, Callable[[Table], None]] = {
    "memory": memory,
    "daemon": daemon,
    "dozing": dozing,
    "language": language,
    "streams": streams,
    "parts": parts,
}
"""The first three need a card on which this process holds nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="a folder for prepared weights, kept for the next run")
    parser.add_argument("--only", default=",".join(SUITES))
    parser.add_argument("--kinds", default="bf16,int8,int4")
    options = parser.parse_args(arguments)
    kinds = tuple(Quantization.named("none" if k == "bf16" else k) for k in options.kinds.split(","))
    print(
        machine(),
        f"PyTorch {torch.__version__}",
        *subprocess.check_output(CARD, text=True).splitlines(),
        sep="; ",
    )
    with tempfile.TemporaryDirectory() as name:
        table = Table(_prepared(options.models, (options.work or Path(name)) / "models", kinds), kinds)
        try:
            for suite in options.only.split(","):
                SUITES[suite](table)
        finally:
            table.print()
    return 0


def _prepared(models: Path, folder: Path, kinds: Sequence[Quantization | None]) -> Path:
    """The checkpoint of outputs without an end, and its quantized weights."""
    if not folder.exists():
        write_endless(models, folder)
    checkpoint = Checkpoint(folder)
    for kind in kinds:
        if kind and not list(checkpoint.quantized.glob(f"*{kind.value}*")):
            write_quantized(checkpoint, kind, checkpoint.quantized)
    return folder


if __name__ == "__main__":
    sys.exit(main())
