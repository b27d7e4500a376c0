"""A runtime with torch replaces the default one, and a small checkpoint speaks on the processor.

Each that has been built is tried: make deb RUNTIMES="lite cpu", or "lite cuda".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.packages.repository import Repository
from tests.packages.steps import SERVICE, install, speak
from tests.systemd.machine import Machine

PYTHON = "/usr/lib/stepaudiod/venv/bin/python3"
DATA = "/var/lib/stepaudiod"
# Random weights make no speech: their output is taken as it is.
MODEL = '[step_audio]\ndevice = "cpu"\ndtype = "fp32"\ncheck_output = false\n'
INSTALL_S = 600


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def runtime(request: pytest.FixtureRequest, repository: Repository, machine: Machine) -> Iterator[str]:
    """Its name; it replaces the default one, and is replaced again."""
    name = f"stepaudiod-runtime-{request.param}"
    if not list(repository.pool.glob(f"{name}_*.deb")):
        pytest.skip(f'not built: make deb RUNTIMES="lite {request.param}"')
    install(machine, "stepaudiod", timeout_s=INSTALL_S)
    machine.write("/etc/stepaudiod/conf.d/50-mine.toml", "idle_timeout = 7\n")
    assert speak(machine).status == 200
    install(machine, name, timeout_s=INSTALL_S)
    yield name
    install(machine, "stepaudiod-runtime-lite", timeout_s=INSTALL_S)
    assert speak(machine).status == 200
    machine.wait_for_state(SERVICE, "inactive")


def test_it_takes_the_place_of_the_one_without_torch(machine: Machine, runtime: str) -> None:
    shown = machine.run(
        "dpkg-query", "--show", "--showformat=${Package} ${db:Status-Abbrev}\n", "stepaudiod*"
    )
    assert f"{runtime} ii" in shown.stdout
    assert "stepaudiod-runtime-lite ii" not in shown.stdout
    assert speak(machine).status == 200
    assert machine.path("/etc/stepaudiod/conf.d/50-mine.toml").read_text() == "idle_timeout = 7\n"


def test_torch_computes_there_and_the_engine_lacks_only_its_weights(machine: Machine, runtime: str) -> None:
    imports = "import torch, transformers, safetensors, tokenizers; "
    program = f"{imports}print(torch.ones(3, 3).matrix_power(2).sum().item())"
    assert machine.run(PYTHON, "-c", program, timeout_s=120).stdout.strip() == "27.0"
    report = json.loads(machine.run("stepaudioctl", "doctor", "--json").stdout)
    found = {finding["subject"]: finding["text"] for finding in report["findings"]}
    assert report["is_well"]
    assert "not installed" not in found["engine"]


def test_a_small_checkpoint_speaks_there(machine: Machine, runtime: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "models")
    machine.copy_in(tmp_path / "models", f"{DATA}/models")
    machine.run("chown", "-R", "_stepaudio:_stepaudio", f"{DATA}/models")
    machine.write("/etc/stepaudiod/conf.d/60-model.toml", MODEL)
    machine.systemctl("stop", SERVICE)
    machine.run("stepaudioctl", "say", "I hum.", "--voice", "alloy", "-o", "/run/voice.wav", timeout_s=120)
    machine.run(
        *("curl", "-sS", "--fail-with-body", "http://127.0.0.1:7860/v1/audio/voices", "-F", "name=hum"),
        *("-F", "audio_sample=@/run/voice.wav", "-F", "transcript=I hum.", "-F", "consent=mine"),
        timeout_s=120,
    )

    body = json.dumps({"model": "step-audio-editx", "voice": "hum", "input": "Hm.", "response_format": "wav"})
    reply = machine.request("POST", "/v1/audio/speech", body.encode(), timeout_s=300)

    assert (reply.status, reply.headers["x-stepaudio-model"]) == (200, "step-audio-editx")
    assert len(reply.body) > 10_000
    machine.remove("/etc/stepaudiod/conf.d/60-model.toml")
    machine.remove(f"{DATA}/models")
