"""`stepaudioctl warm`: what can be made beforehand is made, by the daemon and as its user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepaudiod.ctl import warm
from stepaudiod.ctl.connect import connect
from stepaudiod.ctl.options import Options
from stepaudiod.ctl.terminal import Terminal
from stepaudiod.engines.kokoro.weights import FILE_NAME
from tests.ctl.conftest import Ctl, HandStarted, StartByHand
from tests.editx.trees import write_tree


def control(daemon: HandStarted, programs: Path) -> Ctl:
    return Ctl(("--socket", daemon.socket), str(programs))


def served(ctl: Ctl) -> int:
    return int(json.loads(ctl.ok("status", "--json"))["daemon"]["requests"]["served"])


def test_on_a_processor_it_says_that_nothing_is_compiled(shared_ctl: Ctl) -> None:
    lines = shared_ctl.ok("warm").decode().splitlines()
    assert lines[0] == "hibari, on the processor"
    assert lines[1].startswith("  loaded, and the first request  ")
    assert lines[2].startswith("There is nothing to compile for a processor.")
    assert len(lines) == 3
    assert json.loads(shared_ctl.ok("status", "--json"))["hibari"]["loaded"] is True


def test_as_json_it_tells_what_took_how_long(shared_ctl: Ctl) -> None:
    told = json.loads(shared_ctl.ok("warm", "hibari", "--json"))
    assert (told["model"], told["device"], told["compiled"]) == ("hibari", "cpu", False)
    (stage,) = told["stages"]
    assert 0 < stage["duration_s"] < 60


def test_what_an_engine_keeps_is_there_afterwards(start_by_hand: StartByHand, programs: Path) -> None:
    daemon = start_by_hand(engine="kokoro")
    cache = Path(daemon.socket).parent
    assert not (cache / FILE_NAME).exists()
    control(daemon, programs).ok("warm")
    assert (cache / FILE_NAME).exists()
    assert list((cache / "jieba").iterdir())  # its dictionary is parsed at the first Chinese text


def test_a_model_that_has_no_voice_yet_changes_a_recording(
    start_by_hand: StartByHand, programs: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "models").mkdir(parents=True)
    write_tree(data / "models", "micro")
    daemon = start_by_hand(data_dir=data, step_audio__check_output="false", step_audio__device="cpu")
    ctl = control(daemon, programs)
    lines = ctl.ok("warm", "step-audio-editx").decode().splitlines()
    assert lines[0] == "step-audio-editx, on the processor"
    assert json.loads(ctl.ok("status", "--json"))["step-audio-editx"]["loaded"] is True


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("no-such-model", b"There is no model 'no-such-model'"),
        ("whisper-tiny.en", b"neither speaks nor changes recordings"),
    ],
)
def test_what_cannot_be_warmed_is_said(shared_ctl: Ctl, model: str, why: bytes) -> None:
    done = shared_ctl.run("warm", model)
    assert done.returncode == 1
    assert why in done.stderr
    assert done.stdout == b""


def test_requests_at_once_are_all_served(shared_daemon: HandStarted, shared_ctl: Ctl) -> None:
    """What a GPU's kernels for several sequences need; the command asks for it where there is one."""
    options = Options(shared_daemon.socket, None, None, 60.0, as_json=False, is_quiet=True)
    terminal = Terminal(as_json=False, is_quiet=True)
    with connect(options, terminal) as client:
        ask = warm._asker(client.get("/v1/models/hibari"), options, terminal)
    before = served(shared_ctl)
    stages = [warm._together(count, ask, options, terminal, f"{count} at once") for count in warm.AT_ONCE]
    assert served(shared_ctl) == before + sum(warm.AT_ONCE)
    report = warm._report("step-audio-editx", "cuda:0", is_compiled=True, stages=stages)
    assert report.splitlines()[0] == "step-audio-editx, on cuda:0"
    assert report.splitlines()[-1] == "Its kernels are compiled and kept: the next start finds them."
