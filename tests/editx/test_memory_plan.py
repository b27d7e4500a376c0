"""A GPU's memory is divided before anything is loaded: by the files' headers, and these alone."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from stepaudiod.config import StepAudio
from stepaudiod.ctl.checks.memory import gpu_need
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.editx.decoder.config import STATE_BYTES, FlowCosts
from stepaudiod.editx.lm.config import (
    DEFAULT_POSITIONS,
    DTYPE_BYTES,
    DTYPES,
    ON_HOST,
    Quantization,
    Step1Config,
)
from stepaudiod.editx.lm.quantize import size_bytes
from stepaudiod.editx.lm.step1 import Step1ForCausalLM
from stepaudiod.editx.loading import load_networks
from stepaudiod.editx.memory_plan import (
    DRIVER_BYTES,
    LEAST_POSITIONS,
    MARGIN_BYTES,
    WORKING_BYTES,
    MemoryNeeds,
)
from stepaudiod.errors import EngineUnavailable

PLENTY = 80_000_000_000
FULL_COSTS = FlowCosts(
    mel_frame_bytes=10 * 16 * 2 * 2 * 512 * 2,
    frame_bytes=(6 + 2 * 4) * 2 * 512 * 2,
    columns_bytes=10 * 16 * 2 * 2 * 512 * 2 * 2,
)
FULL_CONFIG = Step1Config(3072, 8192, 48, 4, 32, 74752, 32768, 1e-5)
FULL_WEIGHTS = {None: 6_475_454_014, Quantization.INT8: 3_406_894_654, Quantization.INT4: 2_061_997_630}
FULL_ENCODERS = 1_213_169_438
"""Of the published files, by `MemoryNeeds.of` on a tree of their size."""


def full(kind: Quantization | None = None) -> MemoryNeeds:
    return MemoryNeeds(FULL_CONFIG, 2, FULL_WEIGHTS[kind], FULL_ENCODERS, FULL_COSTS)


@pytest.mark.parametrize("kind", [None, *Quantization])
def test_the_weights_are_as_large_as_was_estimated(tiny: Checkpoint, kind: Quantization | None) -> None:
    networks = load_networks(tiny, torch.device("cpu"), torch.bfloat16, kind)
    state = networks.step1.state_dict()
    on_gpu = sum(t.numel() * t.element_size() for name, t in state.items() if name not in ON_HOST)
    on_gpu += 2 * 5121 * networks.step1.config.hidden_size * 2
    on_gpu += sum(size_bytes(network) for network in networks.encoders.get())
    # the decoder's weights are float32 here
    on_gpu += sum(size_bytes(network) for network in (networks.flow, networks.vocoder)) * STATE_BYTES // 4
    needs = MemoryNeeds.of(tiny, "bf16", kind)
    estimated = needs.weights_bytes + needs.encoder_bytes
    assert estimated == pytest.approx(on_gpu, rel=0.03)
    assert estimated >= 0.995 * on_gpu


@pytest.mark.parametrize(
    ("kind", "limit"), [(None, 9.5e9), (Quantization.INT8, 6e9), (Quantization.INT4, 4.5e9)]
)
def test_the_published_model_runs_within_what_was_promised(kind: Quantization | None, limit: float) -> None:
    plan = full(kind).plan(int(limit), PLENTY)
    assert plan.total_bytes <= limit
    assert plan.positions >= LEAST_POSITIONS
    assert plan.longest_voice_s >= 6
    pool = FULL_CONFIG.pool_bytes(plan.positions, 2)
    parts = DRIVER_BYTES, plan.weights_bytes, WORKING_BYTES, pool, plan.decoder_bytes
    assert plan.total_bytes == sum(parts)


def test_the_documented_table_is_what_is_estimated() -> None:
    lines = (Path(__file__).parents[2] / "docs/models.md").read_text("utf-8").splitlines()
    for kind in (None, *Quantization):
        start = f"| {kind.value if kind else 'bf16'} | "
        (line,) = [line for line in lines if line.startswith(start)]
        least, within, voice, most = (re.sub(r"[^0-9.]", "", cell) for cell in line.strip("|").split("|")[1:])
        needs = full(kind)
        assert least == f"{needs.least().total_bytes / 1e9:.2f}"
        assert int(voice) == int(needs.plan(int(float(within) * 1e9), PLENTY).longest_voice_s)
        assert most == f"{needs.most().total_bytes / 1e9:.1f}"


def test_more_memory_never_makes_less_of_anything() -> None:
    needs = full()
    plans = [needs.plan(size, PLENTY) for size in range(8_900_000_000, 14_000_000_000, 100_000_000)]
    for small, large in pairwise(plans):
        assert large.positions >= small.positions
        assert large.decoder_bytes >= small.decoder_bytes
        assert large.longest_voice_s >= small.longest_voice_s
        assert large.keeps_encoders >= small.keeps_encoders
    assert not plans[0].keeps_encoders
    assert plans[-1] == needs.most()
    assert plans[-1].positions == DEFAULT_POSITIONS
    assert plans[-1].longest_voice_s == 30


def test_auto_takes_what_is_good_and_what_is_free() -> None:
    needs = full()
    assert needs.plan(None, PLENTY) == needs.most()
    free = 10_000_000_000
    assert free - MARGIN_BYTES - 1e6 < needs.plan(None, free).total_bytes <= free - MARGIN_BYTES


def test_too_little_says_how_much_it_takes() -> None:
    with pytest.raises(EngineUnavailable) as refusal:
        full().plan(8_000_000_000, PLENTY)
    assert refusal.value.message == (
        "step_audio.gpu_memory allows 8.00 GB, and the model needs 8.13 GB: 6.48 GB for weights, 0.72 GB "
        "for the driver, 0.94 GB for one request. Raise it; "
        'step_audio.quantization = "int8" or "int4" needs less.'
    )
    with pytest.raises(
        EngineUnavailable, match=r"Of this GPU 7\.70 GB are available, and the model needs 8\.13 GB"
    ):
        full().plan(None, 8_000_000_000)


def test_a_budget_that_others_hold_is_said_before_anything_is_loaded() -> None:
    with pytest.raises(EngineUnavailable, match=r"requires 9\.50 GB, and of this GPU 8\.70 GB are available"):
        full().plan(9_500_000_000, 9_000_000_000)


def test_estimating_reads_no_weights(tiny: Checkpoint, tmp_path: Path) -> None:
    """It is done for each load, before 7 GB are read."""
    before = int(Path("/proc/self/statm").read_text().split()[1])
    MemoryNeeds.of(tiny, "bf16", None)
    grown = (int(Path("/proc/self/statm").read_text().split()[1]) - before) * 4096
    assert grown < 20_000_000


@pytest.mark.parametrize("quantization", ["none", "int4"])
@pytest.mark.parametrize("gpu_memory", ["auto", "9G"])
def test_doctor_calls_enough_what_the_engine_takes_and_no_less(
    tiny: Checkpoint, quantization: str, gpu_memory: str
) -> None:
    settings = StepAudio.model_validate({"quantization": quantization, "gpu_memory": gpu_memory})
    need = gpu_need(tiny.root, settings)
    assert not need.error
    needs = MemoryNeeds.of(tiny, "bf16", Quantization.named(quantization))
    needs.plan(settings.gpu_memory_bytes, need.free_bytes)
    with pytest.raises(EngineUnavailable):
        needs.plan(settings.gpu_memory_bytes, need.free_bytes - 1)


def test_doctor_says_that_the_configured_size_is_too_little(tiny: Checkpoint) -> None:
    need = gpu_need(tiny.root, StepAudio.model_validate({"gpu_memory": "1M"}))
    assert need.is_too_small
    assert "step_audio.gpu_memory allows" in need.error


def test_formats_and_pools_are_as_large_as_was_estimated(tiny: Checkpoint) -> None:
    for name, torch_name in DTYPES.items():
        assert getattr(torch, torch_name).itemsize == DTYPE_BYTES[name]
    config = Step1Config.read(tiny.config)
    with torch.device("meta"):
        cache = Step1ForCausalLM(config).to(torch.bfloat16).new_cache(100)
    assert cache.keys.nbytes + cache.values.nbytes == config.pool_bytes(100, 2)


def test_the_plan_is_made_without_torch(tiny: Checkpoint) -> None:
    program = (
        "import sys; sys.modules.update(torch=None, numpy=None); from pathlib import Path;"
        "from stepaudiod.config import StepAudio; from stepaudiod.ctl.checks.memory import _plan;"
        f"print(_plan(Path({str(tiny.root)!r}), StepAudio()).free_bytes)"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(made.stdout) == MemoryNeeds.of(tiny, "bf16", None).wanted_bytes(None)
