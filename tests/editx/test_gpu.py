"""The language model's decode steps: on a GPU, or, slowly, in Triton's interpreter (`TRITON_INTERPRET=1`)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_BASE
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.lm.quantize import Int4Linear, Int8Linear
from stepaudiod.editx.lm.sampling import TEMPERATURE
from stepaudiod.editx.lm.scheduler import Batch, Sequence
from stepaudiod.editx.lm.step1 import Step1ForCausalLM, alibi_slopes
from stepaudiod.editx.loading import load_step1
from stepaudiod.errors import InvalidRequest
from tests.editx.batches import join

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA build")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not IS_INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from stepaudiod.editx.lm.cuda_scheduler import MAX_BUFFERED_TOKENS, CudaBatch  # noqa: E402
from stepaudiod.editx.lm.kernels import ROWS, Matrix, Rows, Workspace, attend, begin, multiply  # noqa: E402
from stepaudiod.editx.lm.kv_cache import KVPool  # noqa: E402 (after the check that Triton is there)
from stepaudiod.editx.memory_plan import STREAMS  # noqa: E402

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cpu" if IS_INTERPRETED else "cuda")
PROMPT = [1, 4, 100, *range(AUDIO_BASE, AUDIO_BASE + 300), 3, 4, 78]
GREEDY = 0.0
TOKENS = 10 if IS_INTERPRETED else 60


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def load(
    tree: Checkpoint, dtype: torch.dtype = torch.float32, kind: Quantization | None = None
) -> Step1ForCausalLM:
    return load_step1(tree, DEVICE, dtype, kind)


def run(
    batch: Batch,
    seed: int,
    temperature: float = TEMPERATURE,
    prompt: list[int] = PROMPT,
    tokens: int = TOKENS,
) -> list[int]:
    with join(batch, prompt, seed, tokens, temperature) as sequence:
        return list(sequence)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def near(made: Tensor, right: Tensor) -> bool:
    return bool((made - right).abs().max() < 1e-4 * right.abs().max())


@pytest.mark.parametrize("count", [1, 3])
def test_products_with_norms_gates_and_residuals(count: int) -> None:
    hidden, gain = 256, draw(256)
    codes, table, weight = torch.tensor([3, 1, 4], device=DEVICE)[:count], draw(10, hidden), draw(448, hidden)
    rows = Rows.new(count, hidden, DEVICE, torch.float32)
    begin(codes, table, gain, rows)
    right = F.rms_norm(table[codes], (hidden,), gain, 1e-5) @ weight.T
    y = draw(count, 448)
    multiply(rows, Matrix(weight), y, eps=1e-5)
    assert near(y, right)
    inner = draw(count, 224)
    multiply(rows, Matrix(weight), inner, eps=1e-5, is_gated=True)
    assert near(inner, F.silu(right[:, :224]) * right[:, 224:])
    back = draw(hidden, 224)
    multiply(inner, Matrix(back), rows, gain=gain)
    right = table[codes] + inner @ back.T
    assert near(rows.x, right)
    multiply(rows, Matrix(weight), y, eps=1e-5)
    assert near(y, F.rms_norm(right, (hidden,), gain, 1e-5) @ weight.T)


def test_products_with_fewer_bits() -> None:
    x, weight, y = draw(2, 256), draw(96, 256), draw(2, 96)
    eight, four = Int8Linear.of(weight, torch.float32), Int4Linear.of(weight, torch.float32)
    multiply(x, Matrix(eight.weight, eight.scale), y)
    assert near(y, eight(x))
    multiply(x, Matrix(four.packed, four.scale, four.zero), y)
    assert near(y, x @ four.dequantized(torch.float32).T)


def test_attention_over_the_pool_makes_its_bias_from_positions() -> None:
    groups, shared, head, starts, positions = 2, 3, 64, [0, 1000], [5, 700]
    heads = groups * shared
    qkv, keys, values = (
        draw(2, (heads + 2 * groups) * head),
        draw(groups, 2000, head),
        draw(groups, 2000, head),
    )
    slopes, y = alibi_slopes(heads).to(DEVICE), draw(2, heads * head)
    scratch = Workspace.new(2, heads, head, 1024, DEVICE)
    first, at = (torch.tensor(numbers, device=DEVICE) for numbers in (starts, positions))
    attend(qkv, keys, values, slopes, first, at, scratch, y)
    for row, (start, position) in enumerate(zip(starts, positions, strict=True)):
        q, k, v = torch.split(qkv[row], [heads * head, groups * head, groups * head])
        seen_k, seen_v = (x[:, start : start + position + 1] for x in (keys, values))
        assert torch.equal(seen_k[:, -1].flatten(), k)
        assert torch.equal(seen_v[:, -1].flatten(), v)
        distance = torch.arange(position, -1, -1, device=DEVICE)
        scores = (
            q.view(groups, shared, head) @ seen_k.mT / 8 - slopes.view(groups, shared, 1) * distance.sqrt()
        )
        assert near(y[row], (scores.softmax(-1) @ seen_v).flatten())


@pytest.mark.parametrize("temperature", [GREEDY, TEMPERATURE])
def test_decode_steps_equal_single_steps(micro: Checkpoint, temperature: float) -> None:
    model = load(micro)
    eager = run(Batch(model, 1, 1024), 3, temperature)
    assert run(CudaBatch(model, 1, 1024, 2048), 3, temperature) == eager
    assert len(eager) >= 5


@pytest.mark.skipif(IS_INTERPRETED, reason="the smallest model that int4 fits takes minutes")
@pytest.mark.parametrize("kind", Quantization)
def test_decode_steps_with_quantized_weights_equal_single_steps(tiny: Checkpoint, kind: Quantization) -> None:
    model = load(tiny, kind=kind)
    eager = run(Batch(model, 1, 1024), 3, GREEDY, tokens=5)
    assert run(CudaBatch(model, 1, 1024, 2048), 3, GREEDY, tokens=5) == eager


def test_a_seed_means_the_same_alone_and_beside_others(micro: Checkpoint) -> None:
    model = load(micro, torch.float32 if IS_INTERPRETED else torch.bfloat16)
    prompts = [PROMPT, PROMPT[:50], PROMPT[:200], PROMPT[:7]]
    alone = [run(CudaBatch(model, 4, 1024, 4096), seed, prompt=p) for seed, p in enumerate(prompts)]
    batch = CudaBatch(model, 3, 1024, 2048)
    together: list[list[int]] = [[] for _ in prompts]
    open_: dict[int, Sequence] = {}
    waiting = list(range(len(prompts)))
    while waiting or open_:  # one thread takes turns, as the worker does
        for seed in list(waiting):
            sequence = batch.try_join(prompts[seed], TEMPERATURE, seed, TOKENS, seed)
            if sequence is not None:
                waiting.remove(seed)
                open_[seed] = sequence
        for seed, sequence in list(open_.items()):
            try:
                together[seed].append(next(sequence.tokens))
            except StopIteration:
                batch.leave(open_.pop(seed))
    assert together == alone


def test_decode_steps_write_to_their_own_memory_only(micro: Checkpoint) -> None:
    batch = CudaBatch(load(micro), 1, 1024, 2048)
    first = run(batch, 3, tokens=5)
    held = [torch.full((2**size,), 7.0, device=DEVICE) for size in range(3, 20) for _ in range(8)]
    assert run(batch, 3, tokens=5) == first
    assert all(bool((x == 7.0).all()) for x in held)


def test_buffers_of_unread_tokens_are_bounded(micro: Checkpoint) -> None:
    batch = CudaBatch(load(micro), 2, 1024, 2048)
    idle = join(batch, PROMPT[:20], 0, 200, GREEDY)
    run(batch, 1, GREEDY, PROMPT[:30], tokens=5 if IS_INTERPRETED else 100)
    assert 0 < len(idle._buffered) <= MAX_BUFFERED_TOKENS


def test_sequences_wait_for_space_in_the_pool(micro: Checkpoint) -> None:
    batch = CudaBatch(load(micro), 4, 400, 400)
    inside = join(batch, PROMPT, 0, 50, GREEDY)
    assert batch.try_join(PROMPT, GREEDY, 1, 50, "large") is None
    assert batch.try_join(PROMPT[:20], GREEDY, 1, 5, "small") is None  # there is space, and it isn't its turn
    batch.leave(inside)
    large = batch.try_join(PROMPT, GREEDY, 1, 50, "large")
    assert large is not None
    small = batch.try_join(PROMPT[:20], GREEDY, 1, 5, "small")
    assert small is not None
    with pytest.raises(InvalidRequest, match="below 400 tokens"):
        batch.try_join(PROMPT * 2, GREEDY, 1, 50, "too large")


def test_a_prompts_beginning_is_copied_from_where_it_was_read(micro: Checkpoint) -> None:
    model = load(micro)
    pool = KVPool(model.config, 1000, model.device, model.dtype)
    first = pool.allocate(400)
    assert first is not None
    model.prefill(PROMPT, pool.cache(first))
    first.ids = list(PROMPT)
    second = pool.allocate(400)
    assert second is not None
    assert pool.copy_known([*PROMPT, 5], second, 256, 256) == 256
    assert torch.equal(pool.keys[:, :, 400:656], pool.keys[:, :, :256])
    assert pool.allocate(400) is None
    pool.release(first)
    again = pool.allocate(300)
    assert again is not None
    assert again.start == 0
    assert pool.copy_known(PROMPT[1:], again, 256, 256) == 0  # and what lay there is forgotten
    assert all(allocation is not first for allocation in pool._known)


def test_the_plan_knows_how_many_sequences_a_batch_has() -> None:
    assert STREAMS == ROWS
