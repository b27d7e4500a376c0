"""`stepaudioctl warm`: the daemon fills the caches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepaudiod.ctl import warm
from stepaudiod.engines.kokoro.weights import FILE_NAME
from tests.ctl.conftest import Ctl, HandStarted, StartByHand
from tests.editx.trees import write_tree


def control(daemon: HandStarted, programs: Path) -> Ctl:
    return Ctl(("--socket", daemon.socket), str(programs))


def test_nothing_is_compiled_for_a_cpu(shared_ctl: Ctl) -> None:
    lines = shared_ctl.ok("warm").decode().splitlines()
    assert lines[0] == "hibari, on the CPU"
    assert lines[1].startswith("  loading and the first request  ")
    assert lines[2].startswith("Nothing is compiled for a CPU")
    assert len(lines) == 3
    assert json.loads(shared_ctl.ok("status", "--json"))["hibari"]["loaded"] is True


def test_json_has_the_duration_of_each_stage(shared_ctl: Ctl) -> None:
    result = json.loads(shared_ctl.ok("warm", "hibari", "--json"))
    assert (result["model"], result["device"], result["compiled"]) == ("hibari", "cpu", False)
    (stage,) = result["stages"]
    assert 0 < stage["duration_s"] < 60


def test_a_customary_name_warms_the_model_for_which_it_stands(shared_ctl: Ctl) -> None:
    assert shared_ctl.ok("warm", "tts-1").splitlines()[0] == b"hibari, on the CPU"


@pytest.mark.slow
def test_the_caches_of_an_engine_are_filled(start_by_hand: StartByHand, programs: Path) -> None:
    daemon = start_by_hand(engine="kokoro")
    cache = Path(daemon.socket).parent
    assert not (cache / FILE_NAME).exists()
    control(daemon, programs).ok("warm")
    assert (cache / FILE_NAME).exists()
    assert list((cache / "jieba").iterdir())  # its dictionary is parsed at the first Chinese text


@pytest.mark.slow
def test_a_model_without_a_voice_is_warmed_by_an_edit(
    start_by_hand: StartByHand, programs: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "models").mkdir(parents=True)
    write_tree(data / "models", "micro")
    daemon = start_by_hand(data_dir=data, step_audio__check_output="false", step_audio__device="cpu")
    ctl = control(daemon, programs)
    lines = ctl.ok("warm", "step-audio-editx").decode().splitlines()
    assert lines[0] == "step-audio-editx, on the CPU"
    status = json.loads(ctl.ok("status", "--json"))["step-audio-editx"]
    assert status["loaded"] is True
    assert status["warm"] is True


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("no-such-model", b"There is no model 'no-such-model'"),
        ("whisper-tiny.en", b"neither speaks nor edits recordings"),
    ],
)
def test_a_model_that_cannot_be_warmed_is_an_error(shared_ctl: Ctl, model: str, reason: bytes) -> None:
    done = shared_ctl.run("warm", model)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stdout == b""


def test_what_a_gpu_keeps_is_told() -> None:
    stages = [("loading and the first request", 12.3), ("graphs, and files for the next start", 1.5)]
    report = warm._report("step-audio-editx", "cuda:0", is_compiled=True, stages=stages).splitlines()
    assert report[0] == "step-audio-editx, on cuda:0"
    assert report[2] == "  graphs, and files for the next start     1.5 s"
    assert report[-1] == "The cache has what the next start needs; the worker keeps the graphs."
