"""The language model, the choice of ids, and fewer bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.codes import AUDIO_BASE, AUDIO_CODES, END_OF_TURN
from stepaudiod.editx.lm.config import Quantization
from stepaudiod.editx.lm.linear import MANY_ROWS, linear
from stepaudiod.editx.lm.quantize import save, size_bytes
from stepaudiod.editx.lm.sampling import TEMPERATURE, choose, pattern_bounds
from stepaudiod.editx.lm.step1 import DecoderLayer, Step1ForCausalLM, alibi_slopes
from stepaudiod.editx.loading import Networks, load_step1
from stepaudiod.errors import InvalidRequest, ModelFileError
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
    cache, places = model.new_cache(1024), torch.arange(1000, 400, -1)
    hidden = model.prefill(ids[:-5], cache, places)[-1]
    assert torch.allclose(logits(model, hidden), plain[-6], atol=2e-4)
    for position in range(len(ids) - 5, len(ids)):
        hidden = model.prefill(ids[position : position + 1], cache, places, position)[0]
        assert torch.allclose(logits(model, hidden), plain[position], atol=2e-4)
    assert not cache.keys[:, :, :400].any()


def test_tokens_of_several_sequences_are_rows_of_one_call(model: Step1ForCausalLM) -> None:
    cache, first, second = model.new_cache(1024), torch.arange(512), torch.arange(512, 1024)
    pieces = [model.piece(slice(0, 100), 0, first), model.piece(slice(110, 160), 0, second)]
    ids = [*PROMPT[:100], *[0] * 10, *PROMPT[200:250]]
    made = logits(model, model.model(torch.tensor(ids), cache, pieces))
    assert torch.allclose(made[:100], naive_logits(model, PROMPT[:100]), atol=2e-4)
    assert torch.allclose(made[110:], naive_logits(model, PROMPT[200:250]), atol=2e-4)


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


@pytest.mark.parametrize("position", range(10))
def test_the_pattern_holds_whatever_the_scores(position: int) -> None:
    generator = torch.Generator().manual_seed(position)
    first, end = pattern_bounds(position)
    for seed in range(50):
        scores = torch.randn(AUDIO_CODES + 1, generator=generator)
        assert first <= choose(scores, position, False, seed, 5.0) - AUDIO_BASE < end


def test_the_end_is_taken_where_it_may_be() -> None:
    wants_end = torch.zeros(AUDIO_CODES + 1)
    wants_end[-1] = 100.0
    assert choose(wants_end, 5, True, 0, TEMPERATURE) == END_OF_TURN
    assert choose(wants_end, 5, False, 0, TEMPERATURE) != END_OF_TURN


def test_sampling_follows_the_distribution() -> None:
    likely = torch.tensor([2.0, 1.0, 0.0, -1.0])
    scores = torch.full((AUDIO_CODES + 1,), -torch.inf)
    scores[:4] = likely
    drawn = torch.tensor([choose(scores, 0, False, seed, TEMPERATURE) - AUDIO_BASE for seed in range(4000)])
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, (likely / TEMPERATURE).softmax(0), atol=0.03)


@pytest.mark.parametrize(("kind", "limit"), [(Quantization.INT8, 0.05), (Quantization.INT4, 0.5)])
def test_fewer_bits_stay_close_and_can_be_saved(
    micro: Checkpoint, tmp_path: Path, kind: Quantization, limit: float
) -> None:
    full = load_step1(micro, CPU, torch.float32)
    small = load_step1(micro, CPU, torch.float32, kind)
    assert size_bytes(small.model.layers) < 0.35 * size_bytes(full.model.layers)
    reads = [logits(model, model.prefill(PROMPT, model.new_cache(512))[-1]) for model in (full, small)]
    assert (reads[0] - reads[1]).square().mean().sqrt() < limit * reads[0].std()
    save(small, kind, tmp_path)
    again = load_step1(micro, CPU, torch.float32, kind, quantized_folder=tmp_path)
    read = logits(again, again.prefill(PROMPT, again.new_cache(512))[-1])
    assert torch.allclose(read, reads[1], atol=1e-4)


@pytest.mark.parametrize("kind", Quantization)
def test_the_cpus_own_kernels_in_bfloat16(micro: Checkpoint, tmp_path: Path, kind: Quantization) -> None:
    exact = load_step1(micro, CPU, torch.float32, kind)
    small = load_step1(micro, CPU, torch.bfloat16, kind)
    for prompt in (PROMPT[:9], PROMPT):
        reads = [logits(model, model.prefill(prompt, model.new_cache(512))[-1]) for model in (exact, small)]
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
