"""The language model, the choice of ids, the batch, and fewer bits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_BASE, AUDIO_CODES, END_OF_TURN, GROUP
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.lm.linear import MANY_ROWS, linear
from stepaudiod.editx.lm.quantize import save, size_bytes
from stepaudiod.editx.lm.sampling import TEMPERATURE, Sampler, pattern_bounds
from stepaudiod.editx.lm.scheduler import MAX_BUFFERED_TOKENS, Batch, Sequence
from stepaudiod.editx.lm.step1 import DecoderLayer, Step1ForCausalLM, alibi_slopes
from stepaudiod.editx.loading import Networks, load_step1
from stepaudiod.errors import InvalidRequest, ModelFileError
from tests.editx.batches import join
from tests.parity.language import logits

CPU = torch.device("cpu")
PROMPT = [1, 4, 100, *range(AUDIO_BASE, AUDIO_BASE + 300), 3, 4, 78]


@pytest.fixture
def model(networks: Networks) -> Step1ForCausalLM:
    return networks.step1


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.inference_mode():
        yield


def naive_logits(model: Step1ForCausalLM, ids: list[int]) -> Tensor:
    """The whole sequence at once, every head with keys of its own and a full matrix of biases."""
    heads, groups = model.config.num_attention_heads, model.config.num_attention_groups
    n = len(ids)
    distance = (torch.arange(n)[:, None] - torch.arange(n)).float()
    bias = -alibi_slopes(heads)[:, None, None] * distance.clamp_min(0).sqrt()
    bias = bias.masked_fill(distance < 0, -torch.inf)
    x = model.model.embed_tokens(torch.tensor(ids))
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        y, attention = layer.input_layernorm(x), layer.self_attn
        q = attention.q_proj(y).view(n, heads, -1).transpose(0, 1)
        k, v = (
            proj(y).view(n, groups, -1).transpose(0, 1).repeat_interleave(heads // groups, 0)
            for proj in (attention.k_proj, attention.v_proj)
        )
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias).softmax(-1)
        x = x + attention.o_proj((weights @ v).transpose(0, 1).flatten(1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return logits(model, model.model.norm(x))


@pytest.mark.parametrize("rows", [1, MANY_ROWS - 1, MANY_ROWS, 300])
def test_products_are_as_precise_as_their_type_however_many_rows(rows: int) -> None:
    """A processor without bfloat16 of its own takes another way for many rows."""
    generator = torch.Generator().manual_seed(rows)
    x, weight = (torch.randn(n, 512, generator=generator).to(torch.bfloat16) for n in (rows, 96))
    right = x.double() @ weight.double().T
    made = linear(x[None], weight)
    assert made.shape == (1, rows, 96)
    assert made.dtype is torch.bfloat16
    assert (made[0].double() - right).abs().max() < 2**-8 * right.abs().max()
    assert torch.equal(linear(x.float(), weight.float()), x.float() @ weight.float().T)


def test_blocks_cache_and_groups_give_what_a_plain_pass_gives(model: Step1ForCausalLM) -> None:
    ids = [*PROMPT, *range(AUDIO_BASE + 2000, AUDIO_BASE + 2010)]
    plain = naive_logits(model, ids)
    cache = model.new_cache(2, 512)
    hidden = model.prefill(ids[:-5], cache, row=1)[-1]
    assert torch.allclose(logits(model, hidden), plain[-6], atol=2e-4)
    for position in range(len(ids) - 5, len(ids)):
        step = torch.tensor([ids[position]]), torch.tensor([position])
        hidden = model.decode(*step, cache, position + 1, first_row=1)[0]
        assert torch.allclose(logits(model, hidden), plain[position], atol=2e-4)
    assert not cache.keys[:, 0].any()


def test_a_prompts_beginning_can_be_read_before(model: Step1ForCausalLM) -> None:
    cache = model.new_cache(1, 512)
    whole = model.prefill(PROMPT, cache)[-1]
    model.prefill(PROMPT[:100], cache)
    assert torch.allclose(model.prefill(PROMPT[100:], cache, start=100)[-1], whole, atol=1e-4)


def test_slopes_of_head_counts_beside_powers_of_two() -> None:
    slopes = alibi_slopes(48)
    assert slopes[:2].tolist() == pytest.approx([2**-0.25, 2**-0.5])
    assert slopes[32:34].tolist() == pytest.approx([2**-0.125, 2**-0.375])
    assert alibi_slopes(8).tolist() == pytest.approx([2.0**-i for i in range(1, 9)])


def test_the_output_layer_has_weights_of_its_own(model: Step1ForCausalLM) -> None:
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    hidden = torch.randn(2, model.config.hidden_size)
    codes, whole = model.audio_logits(hidden), logits(model, hidden)
    assert codes.shape == (2, AUDIO_CODES + 1)
    assert torch.allclose(codes[:, :-1], whole[:, AUDIO_BASE : AUDIO_BASE + AUDIO_CODES], atol=1e-5)
    assert torch.allclose(codes[:, -1], whole[:, END_OF_TURN], atol=1e-5)


def test_the_pattern_holds_whatever_the_scores() -> None:
    sampler = Sampler(5.0, seed=1)
    generator = torch.Generator().manual_seed(0)
    for position in range(60):
        token = sampler.choose(torch.randn(AUDIO_CODES + 1, generator=generator))
        if token == END_OF_TURN:
            assert position in range(GROUP, 60, GROUP)
            break
        first, end = pattern_bounds(position)
        assert first <= token - AUDIO_BASE < end


def test_the_end_is_taken_between_groups_only() -> None:
    wants_end = torch.zeros(AUDIO_CODES + 1)
    wants_end[-1] = 100.0
    sampler = Sampler(0, seed=0)
    assert [sampler.choose(wants_end) == END_OF_TURN for _ in range(6)] == [False] * 5 + [True]


def test_sampling_follows_the_distribution() -> None:
    likely = torch.tensor([2.0, 1.0, 0.0, -1.0])
    scores = torch.full((AUDIO_CODES + 1,), -torch.inf)
    scores[:4] = likely
    drawn = torch.tensor([Sampler(TEMPERATURE, seed).choose(scores) - AUDIO_BASE for seed in range(4000)])
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, (likely / TEMPERATURE).softmax(0), atol=0.03)


def run(batch: Batch, seed: int, tokens: int = 30, prompt: list[int] = PROMPT) -> list[int]:
    with join(batch, prompt, seed, tokens) as sequence:
        return list(sequence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_seed_means_the_same_alone_and_beside_others(micro: Checkpoint, dtype: torch.dtype) -> None:
    model = load_step1(micro, CPU, dtype)
    prompts = [PROMPT, PROMPT[:50], PROMPT[:200], PROMPT[:7], PROMPT[:120]]
    alone = [run(Batch(model, 4, 512), seed, 80, prompt) for seed, prompt in enumerate(prompts)]
    batch = Batch(model, 4, 512)
    together: list[list[int]] = [[] for _ in prompts]

    def work(index: int) -> None:
        with torch.inference_mode():
            together[index] = run(batch, index, 80, prompts[index])

    _in_threads(work, len(prompts))
    assert together == alone


def _in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_prompt_is_read_from_where_it_parts_from_the_last(
    model: Step1ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = [run(Batch(model, 1, 700), seed, prompt=[*PROMPT, 5 + seed]) for seed in range(3)]
    read: list[int] = []
    prefill = Step1ForCausalLM.prefill

    def counted(self: Step1ForCausalLM, ids: list[int], *rest: Any, **named: Any) -> Tensor:
        read.append(len(ids))
        return prefill(self, ids, *rest, **named)

    monkeypatch.setattr(Step1ForCausalLM, "prefill", counted)
    batch = Batch(model, 2, 700)
    assert [run(batch, seed, prompt=[*PROMPT, 5 + seed]) for seed in range(3)] == fresh
    assert read == [307, 51, 51]
    run(batch, 0, prompt=PROMPT[1:])  # nothing in common: the other row takes it
    run(batch, 0, prompt=[*PROMPT, 5])
    assert read[3:] == [305, 51]


def test_leaving_early_frees_the_row(model: Step1ForCausalLM) -> None:
    batch = Batch(model, 1, 512)
    for seed in range(3):
        with join(batch, PROMPT, seed, 100) as sequence:
            next(iter(sequence))
    with pytest.raises(RuntimeError, match="left"):
        batch.next_token(sequence)


def test_one_thread_that_takes_turns_shares_each_step(
    model: Step1ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    decode = Step1ForCausalLM.decode

    def counted(self: Step1ForCausalLM, *rest: Any, **named: Any) -> Tensor:
        steps.append(1)
        return decode(self, *rest, **named)

    monkeypatch.setattr(Step1ForCausalLM, "decode", counted)
    batch = Batch(model, 2, 512)
    pair = [join(batch, PROMPT, seed, 40, 0.0) for seed in range(2)]
    assert batch.try_join(PROMPT, 0.0, 2, 40, "third") is None  # no row
    batch.stop_waiting("third")
    batch.step_others(0)  # those inside go on meanwhile
    assert [len(sequence._buffered) for sequence in pair] == [1, 1]
    for _ in range(5):
        for sequence in pair:
            for _ in range(8):
                next(sequence.tokens)
    assert len(steps) < 50


def test_rows_are_given_in_the_order_of_arrival(model: Step1ForCausalLM) -> None:
    batch = Batch(model, 1, 512)
    inside = join(batch, PROMPT, 0, 40)

    def ask(who: str) -> Sequence | None:
        return batch.try_join(PROMPT, TEMPERATURE, 0, 40, who)

    assert ask("first") is ask("second") is ask("third") is None
    batch.leave(inside)
    assert ask("second") is None
    batch.stop_waiting("first")
    assert ask("third") is None
    assert ask("second") is not None


def test_waiting_in_the_consuming_thread_does_not_delay_the_running_sequences(
    model: Step1ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(model, 1, 512)
    inside = join(batch, PROMPT, 1, 60)
    waits: list[float] = []
    monkeypatch.setattr(batch._row_is_free, "wait", waits.append)
    taken = 0
    while len(inside._buffered) < MAX_BUFFERED_TOKENS:  # there is something to do for them
        taken = batch.step_others(taken)
    assert not waits
    next(inside.tokens)
    batch.step_others(taken)
    taken = batch.step_others(taken)  # as full as before, and this thread has taken one since
    assert not waits
    batch.step_others(taken)  # nothing to do, and no consumer here: a moment for other threads
    assert len(waits) == 1
    other = threading.Thread(target=lambda: next(inside.tokens))
    other.start()
    other.join()
    batch.step_others(taken)
    batch.step_others(taken)  # they go on by themselves
    assert len(waits) == 2


def test_a_prompt_without_room_is_refused(model: Step1ForCausalLM) -> None:
    with pytest.raises(InvalidRequest, match="below 100 tokens, found 306"):
        join(Batch(model, 1, 100), PROMPT, 0, 10)


@pytest.mark.parametrize(("kind", "limit"), [(Quantization.INT8, 0.05), (Quantization.INT4, 0.5)])
def test_fewer_bits_stay_close_and_can_be_saved(
    micro: Checkpoint, tmp_path: Path, kind: Quantization, limit: float
) -> None:
    full = load_step1(micro, CPU, torch.float32)
    small = load_step1(micro, CPU, torch.float32, kind)
    assert size_bytes(small.model.layers) < 0.35 * size_bytes(full.model.layers)
    reads = [logits(model, model.prefill(PROMPT, model.new_cache(1, 512))[-1]) for model in (full, small)]
    assert (reads[0] - reads[1]).square().mean().sqrt() < limit * reads[0].std()
    save(small, kind, tmp_path)
    again = load_step1(micro, CPU, torch.float32, kind, quantized_folder=tmp_path)
    read = logits(again, again.prefill(PROMPT, again.new_cache(1, 512))[-1])
    assert torch.allclose(read, reads[1], atol=1e-4)


@pytest.mark.parametrize("kind", Quantization)
def test_the_cpus_own_kernels_in_bfloat16(micro: Checkpoint, tmp_path: Path, kind: Quantization) -> None:
    exact = load_step1(micro, CPU, torch.float32, kind)
    small = load_step1(micro, CPU, torch.bfloat16, kind)
    for prompt in (PROMPT[:9], PROMPT):
        reads = [
            logits(model, model.prefill(prompt, model.new_cache(1, 512))[-1]) for model in (exact, small)
        ]
        assert (reads[0] - reads[1]).square().mean().sqrt() < 0.1 * reads[0].std()
    if kind is Quantization.INT4:
        with pytest.raises(InvalidRequest, match="before it runs"):
            save(small, kind, tmp_path)


def test_variant_names_of_older_interfaces_are_understood() -> None:
    assert Quantization.named("base") is None
    assert Quantization.named("AWQ") is Quantization.INT4
    assert Quantization.named("bnb") is Quantization.INT8
    with pytest.raises(InvalidRequest, match="int8"):
        Quantization.named("int2")


def test_a_saved_file_of_another_kind_is_refused(micro: Checkpoint, tmp_path: Path) -> None:
    path = save(load_step1(micro, CPU, torch.float32, Quantization.INT8), Quantization.INT8, tmp_path)
    path.rename(tmp_path / "quantized-int4.safetensors")
    with pytest.raises(ModelFileError, match="expected weights in int4, found int8"):
        load_step1(micro, CPU, torch.float32, Quantization.INT4, quantized_folder=tmp_path)
