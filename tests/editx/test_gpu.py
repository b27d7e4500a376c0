"""The language model on a GPU: kernels and runner; or slowly in Triton's interpreter (TRITON_INTERPRET=1)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_BASE
from stepaudiod.editx.lm.config import PAGE, Quantization
from stepaudiod.editx.lm.eager_runner import EagerRunner
from stepaudiod.editx.lm.quantize import Int4Linear, Int8Linear
from stepaudiod.editx.lm.sampling import TEMPERATURE
from stepaudiod.editx.lm.step1 import Step1ForCausalLM, alibi_slopes
from stepaudiod.editx.lm.tuning import Blocks
from stepaudiod.editx.loading import load_step1
from tests.editx.sequences import alone, finish, sequence, together

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA build")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not IS_INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)
if IS_INTERPRETED:
    from tests.editx.interpreted import allow_computed_ranges

    allow_computed_ranges()

from stepaudiod.editx.lm.attention_kernels import TILE, Attention  # noqa: E402 (after that check)
from stepaudiod.editx.lm.cuda_runner import CudaRunner  # noqa: E402
from stepaudiod.editx.lm.kernel_parts import can_overlap  # noqa: E402
from stepaudiod.editx.lm.kernels import ROWS, Matrix, Rows, begin, multiply  # noqa: E402
from stepaudiod.editx.memory_plan import STREAMS  # noqa: E402

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cpu" if IS_INTERPRETED else "cuda")
PROMPT = [1, 4, 100, *range(AUDIO_BASE, AUDIO_BASE + 300), 3, 4, 78]
GREEDY = 0.0
TOKENS = 10 if IS_INTERPRETED else 60
BLOCKS = Blocks(32, 64, 4, 2)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def load(
    tree: Checkpoint, dtype: torch.dtype = torch.float32, kind: Quantization | None = None
) -> Step1ForCausalLM:
    return load_step1(tree, DEVICE, dtype, kind)


def eager(tree: Checkpoint, kind: Quantization | None = None) -> EagerRunner:
    return EagerRunner(load_step1(tree, torch.device("cpu"), torch.float32, kind), 4, 1024)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def near(made: Tensor, right: Tensor, limit: float = 1e-4) -> bool:
    return bool((made - right).abs().max() < limit * right.abs().max())


@pytest.mark.parametrize(("count", "block", "slices"), [(1, 16, 4), (3, 16, 1), (80, 32, 1)])
def test_products_with_norms_gates_and_residuals(count: int, block: int, slices: int) -> None:
    blocks = replace(BLOCKS, slices=slices)
    hidden, gain = 256, draw(256)
    codes = torch.arange(count, device=DEVICE, dtype=torch.int32) * 7 % 10
    table, weight = draw(10, hidden), draw(448, hidden)
    rows = Rows.new(max(count, 16), table, block, hidden // BLOCKS.n)
    rows = replace(rows, x=rows.x[:count], ready=rows.ready[:count], is_overlapped=can_overlap(DEVICE))
    begin(codes, table, gain, rows)
    right = F.rms_norm(table[codes], (hidden,), gain, 1e-5) @ weight.T
    y = draw(count, 448)
    multiply(rows.ready, Matrix(weight), y, rows, blocks, eps=1e-5)
    assert near(y, right)
    inner = draw(count, 224)
    multiply(rows.ready, Matrix(weight), inner, rows, blocks, eps=1e-5, is_gated=True)
    assert near(inner, F.silu(right[:, :224]) * right[:, 224:])
    back = draw(hidden, 224)
    multiply(inner, Matrix(back), rows.x, rows, blocks, gain=gain)
    right = table[codes] + inner @ back.T
    assert near(rows.x, right)
    multiply(rows.ready, Matrix(weight), y, rows, blocks, eps=1e-5)
    assert near(y, F.rms_norm(right, (hidden,), gain, 1e-5) @ weight.T)


def test_products_of_fewer_rows_than_there_are_leave_the_others() -> None:
    x, weight, y = draw(64, 64), draw(96, 64), torch.zeros(64, 96, device=DEVICE)
    count = torch.tensor([20], device=DEVICE, dtype=torch.int32)
    multiply(x, Matrix(weight), y, replace(Rows.new(64, x, 16, 2), count=count), BLOCKS)
    assert near(y[:20], (x @ weight.T)[:20])
    assert not y[20:].any()


@pytest.mark.parametrize("dtype", [torch.float32] if IS_INTERPRETED else [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slices", [1, 2])
def test_products_with_fewer_bits(slices: int, dtype: torch.dtype) -> None:
    x, weight, y = draw(2, 256).to(dtype), draw(96, 256), draw(2, 96).to(dtype)
    rows, blocks = Rows.new(16, x, 16, 8), Blocks(32, 128, 4, 2, slices=slices)
    eight, four = Int8Linear.of(weight, dtype), Int4Linear.of(weight, dtype)
    limit = 1e-4 if dtype is torch.float32 else 2**-7
    multiply(x, Matrix(eight.weight, eight.scale), y, rows, blocks)
    assert near(y, x.float() @ (eight.weight.float() * eight.scale.float()[:, None]).T, limit)
    multiply(x, Matrix(four.packed, four.scale, four.zero), y, rows, blocks)
    assert near(y, x.float() @ four.dequantized(torch.float32).T, limit)


class Pool:
    """A layer's keys and values, three sequences in pages that are out of order, and a model's shape."""

    groups, shared, head, pages = 2, 3, 64, 18

    def __init__(self) -> None:
        self.heads = self.groups * self.shared
        self.keys = draw(self.groups, 60 * PAGE, self.head)
        self.values = draw(self.groups, 60 * PAGE, self.head) * 2
        order = torch.randperm(54, generator=torch.Generator().manual_seed(0))
        self.numbers = torch.zeros(3, 8 + self.pages, dtype=torch.int32)
        self.numbers[:, 8:] = order.view(3, self.pages)
        self.slopes = alibi_slopes(self.heads).to(DEVICE)
        self.attention = Attention.new(self.slopes, self.groups, self.head, 1, 8, can_overlap(DEVICE))

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = self.groups * self.head
        q, k, v = torch.split(qkv, [self.heads * self.head, width, width], dim=-1)
        return q, k.view(-1, self.groups, self.head), v.view(-1, self.groups, self.head)

    def seen(self, row: int, end: int) -> tuple[Tensor, Tensor]:
        places = (self.numbers[row, 8:, None] * PAGE + torch.arange(PAGE)).flatten()[:end].to(DEVICE)
        return self.keys[:, places], self.values[:, places]

    def right(self, q: Tensor, row: int, position: int) -> Tensor:
        keys, values = self.seen(row, position + 1)
        distance = torch.arange(position, -1, -1, device=DEVICE)
        scores = q.view(self.groups, self.shared, self.head) @ keys.mT / 8
        scores = scores - self.slopes.view(self.groups, self.shared, 1) * distance.sqrt()
        return (scores.softmax(-1) @ values).flatten()


def test_attention_in_a_step_over_pages() -> None:
    pool, positions = Pool(), [5, 1100, -1]
    qkv = draw(3, (pool.heads + 2 * pool.groups) * pool.head)
    y = draw(3, pool.heads * pool.head)
    before = y[2].clone()
    pool.numbers[:, 1] = torch.tensor(positions)
    for place in range(2):  # the second time nothing may be left of the first
        pool.attention.step(qkv, pool.keys, pool.values, pool.numbers.to(DEVICE), place, y)
        q, k, v = pool.split(qkv)
        for row, position in enumerate(positions[:2]):
            keys, values = pool.seen(row, position + place + 1)
            assert torch.equal(keys[:, -1], k[row])
            assert torch.equal(values[:, -1], v[row])
            assert near(y[row], pool.right(q[row], row, position + place))
    assert torch.equal(y[2], before)


def test_attention_of_prompts_over_pages() -> None:
    pool = Pool()
    tiles = torch.zeros(4, 8 + pool.pages, dtype=torch.int32)
    pieces = [(0, 0, 16), (0, 16, 7), (1, 120, 16)]  # row, first position, count; the fourth tile is empty
    for tile, (row, first, count) in zip(tiles, pieces, strict=False):
        tile[8:] = pool.numbers[row, 8:]
        tile[0], tile[1] = first, count
    qkv = draw(4 * TILE, (pool.heads + 2 * pool.groups) * pool.head)
    y = torch.zeros(4 * TILE, pool.heads * pool.head, device=DEVICE)
    pool.attention.prompts(qkv, pool.keys, pool.values, tiles.to(DEVICE), y)
    q, k, _ = pool.split(qkv)
    for index, (row, first, count) in enumerate(pieces):
        at = slice(index * TILE, index * TILE + count)
        assert torch.equal(pool.seen(row, first + count)[0][:, first:].transpose(0, 1), k[at])
        for token in range(0, count, 3):
            assert near(y[at][token], pool.right(q[at][token], row, first + token))
    assert not y[3 * TILE :].any()


@pytest.mark.parametrize("temperature", [GREEDY, TEMPERATURE])
def test_ids_equal_those_of_a_processor(micro: Checkpoint, temperature: float) -> None:
    right = alone(eager(micro), PROMPT, 3, TOKENS, temperature)
    assert alone(CudaRunner(load(micro), 1024, 2048), PROMPT, 3, TOKENS, temperature) == right
    assert len(right) >= min(TOKENS, 20)  # an end may be drawn


@pytest.mark.skipif(IS_INTERPRETED, reason="the smallest model that int4 fits takes minutes")
@pytest.mark.parametrize("kind", Quantization)
def test_ids_of_quantized_weights_equal_those_of_a_processor(tiny: Checkpoint, kind: Quantization) -> None:
    right = alone(eager(tiny, kind), PROMPT, 3, 5, GREEDY)
    assert alone(CudaRunner(load(tiny, kind=kind), 1024, 2048), PROMPT, 3, 5, GREEDY) == right


def test_a_seed_means_the_same_alone_and_beside_others(micro: Checkpoint) -> None:
    model = load(micro, torch.float32 if IS_INTERPRETED else torch.bfloat16)
    prompts = [PROMPT, PROMPT[:50], PROMPT[:200], PROMPT[:7], [*PROMPT[:150], 9]]
    fresh = [alone(CudaRunner(model, 1024, 1024), p, seed, TOKENS) for seed, p in enumerate(prompts)]
    assert together(CudaRunner(model, 1024, 8192), prompts, TOKENS) == fresh


def test_prompts_are_read_in_pieces_and_together_and_share_their_beginning(micro: Checkpoint) -> None:
    model = load(micro, torch.float32 if IS_INTERPRETED else torch.bfloat16)
    prompts = [[*PROMPT[:280], 7, 8, 9], [*PROMPT, 5, *PROMPT[3:200]], PROMPT[:77]]
    fresh = [alone(CudaRunner(model, 1024, 1024), p, seed, 5) for seed, p in enumerate(prompts)]
    runner = CudaRunner(model, 1024, 4096)
    sequences = [sequence(runner, p, seed, 5, slot=seed) for seed, p in enumerate(prompts)]
    assert [s.read for s in sequences] == [0, 256, 64]
    runner.prefill([(sequences[0], 101)])
    runner.prefill([(s, 1000) for s in sequences])
    assert all(s.is_read for s in sequences)
    finish(runner, sequences)
    assert [s.ids for s in sequences] == fresh


def test_a_group_that_was_begun_for_one_that_left_means_nothing_to_the_next(micro: Checkpoint) -> None:
    model = load(micro, torch.float32 if IS_INTERPRETED else torch.bfloat16)
    stays, next_one = (alone(CudaRunner(model, 1024, 1024), PROMPT[:60], seed, TOKENS) for seed in (1, 2))
    runner = CudaRunner(model, 1024, 4096)
    first, leaver = (sequence(runner, PROMPT[:60], seed, TOKENS, slot=seed - 1) for seed in (1, 2))
    runner.prefill([(first, 1000), (leaver, 1000)])
    runner.decode([first, leaver])
    assert leaver.allocation is not None
    runner.pages.release(leaver.allocation)
    late = sequence(runner, PROMPT[:60], 2, TOKENS, slot=leaver.slot)
    runner.prefill([(late, 1000)])
    finish(runner, [late, first])
    assert (first.ids, late.ids) == (stays, next_one)


def test_decode_steps_write_to_their_own_memory_only(micro: Checkpoint) -> None:
    runner = CudaRunner(load(micro), 1024, 2048)
    first = alone(runner, PROMPT, 3, 5)
    held = [torch.full((2**size,), 7.0, device=DEVICE) for size in range(3, 20) for _ in range(8)]
    assert alone(runner, PROMPT, 3, 5) == first
    assert all(bool((x == 7.0).all()) for x in held)


@pytest.mark.skipif(IS_INTERPRETED, reason="there are no graphs")
def test_a_capture_between_steps_changes_nothing(micro: Checkpoint) -> None:
    model = load(micro)
    first, second = (alone(CudaRunner(model, 1024, 2048), PROMPT[:60], seed, 20) for seed in range(2))
    runner = CudaRunner(model, 1024, 2048)
    alone(runner, PROMPT[100:160], 5, 5)  # its pages are given to the next
    sequences = [sequence(runner, PROMPT[:60], seed, 20, slot=seed) for seed in range(2)]
    runner.prefill([(each, 60) for each in sequences])
    runner.decode(sequences)
    while runner.capture_next():
        pass
    finish(runner, sequences)
    assert [each.ids for each in sequences] == [first, second]


def test_the_plan_knows_how_many_sequences_decode_at_once() -> None:
    assert STREAMS == ROWS
