"""Another runtime replaces the default one, if one has been built."""

from __future__ import annotations

import json

import pytest

from tests.packages.conftest import DEBS
from tests.packages.test_life import SERVICE, install, speak
from tests.systemd.machine import Machine

PYTHON = "/usr/lib/stepaudiod/venv/bin/python3"


@pytest.fixture(autouse=True)
def built() -> None:
    if not list(DEBS.glob("stepaudiod-runtime-cpu_*.deb")):
        pytest.skip('there is no runtime with torch: make deb RUNTIMES="lite cpu"')


def test_the_runtime_with_torch_takes_the_place_of_the_one_without(machine: Machine) -> None:
    install(machine, "stepaudiod")
    machine.write("/etc/stepaudiod/conf.d/50-mine.toml", "idle_timeout = 7\n")
    machine.write("/var/lib/stepaudiod/voices/mine.wav", "a voice of a user")
    assert speak(machine).status == 200

    install(machine, "stepaudiod-runtime-cpu", timeout_s=240)

    shown = machine.run(
        "dpkg-query", "--show", "--showformat=${Package} ${db:Status-Abbrev}\n", "stepaudiod*"
    )
    assert "stepaudiod-runtime-cpu ii" in shown.stdout
    assert "stepaudiod-runtime-lite ii" not in shown.stdout
    assert speak(machine).status == 200
    assert machine.path("/etc/stepaudiod/conf.d/50-mine.toml").read_text() == "idle_timeout = 7\n"
    assert machine.path("/var/lib/stepaudiod/voices/mine.wav").exists()


def test_torch_computes_there_and_the_engine_lacks_only_its_weights(machine: Machine) -> None:
    imports = "import torch, transformers, safetensors, tokenizers; "
    program = f"{imports}print(torch.ones(3, 3).matrix_power(2).sum().item())"
    assert machine.run(PYTHON, "-c", program, timeout_s=120).stdout.strip() == "27.0"
    report = json.loads(machine.run("stepaudioctl", "doctor", "--json").stdout)
    found = {finding["subject"]: finding["text"] for finding in report["findings"]}
    assert report["is_well"]
    assert "not installed" not in found["engine"]


def test_the_lite_runtime_replaces_it_again(machine: Machine) -> None:
    install(machine, "stepaudiod-runtime-lite")
    assert speak(machine).status == 200
    machine.wait_for_state(SERVICE, "inactive")
