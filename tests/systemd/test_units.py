"""The unit files: systemd-analyze reports nothing, and both services are alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import UNITS
from tests.systemd.machine import Machine

# What sets the instances' service apart from the single one.
OWN = ("Description=", "Requires=", "After=", "PartOf=", "ExecStart=", "Also=")


def common_lines(unit: str) -> list[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", *OWN))]


def test_systemd_accepts_every_unit(machine: Machine) -> None:
    files = [
        f"/usr/lib/systemd/system/{path.name}" for path in UNITS.glob("*.s*") if path.suffix != ".sysusers"
    ]
    assert len(files) == 6

    done = machine.run("systemd-analyze", "verify", "--man=no", *files, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_instances_have_the_same_service() -> None:
    assert common_lines("stepaudiod@.service") == common_lines("stepaudiod.service")


@pytest.mark.parametrize("unit", ["stepaudiod.service", "stepaudiod@gpu0.service"])
def test_the_sandbox_leaves_little_exposed(machine: Machine, unit: str) -> None:
    # In tenths: 1.3 of 10, where an ordinary service has 9.6.
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=13", unit)


def test_the_unit_for_gpus_may_do_little_else(machine: Machine) -> None:
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=25", "stepaudiod-gpu.service")


def test_the_unit_for_gpus_can_make_nodes_and_load_modules(machine: Machine) -> None:
    node, program = "/dev/nvidia-test", "/usr/bin/nvidia-modprobe"
    script = (
        f"mknod {node} c 195 0 && chmod 660 {node} && chown 0:video {node} && cat /proc/devices > /dev/null"
    )
    machine.write(program, f"#!/bin/sh\n{script}\n", mode=0o755)
    machine.drop_in("stepaudiod-gpu.service", "[Unit]\nConditionPathExists=\n")
    try:
        machine.systemctl("start", "stepaudiod-gpu.service")
        assert machine.show("stepaudiod-gpu.service", "ExecMainStatus") == "0"
        found = machine.run("stat", "--format=%A %U:%G %t", node).stdout
        allowed = machine.show("stepaudiod-gpu.service", "SystemCallFilter").split()
    finally:
        machine.remove(program)
        machine.run("rm", "-f", node)
        machine.reset("stepaudiod-gpu.service")
    assert found == "crw-rw---- root:video c3\n"
    assert {"finit_module", "init_module"} <= set(allowed)


@pytest.mark.parametrize("unit", ["stepaudiod.socket", "stepaudiod-api.socket", "stepaudiod@gpu0.socket"])
def test_no_limit_can_fail_a_socket(machine: Machine, unit: str) -> None:
    assert machine.show(unit, "TriggerLimitIntervalUSec") == "0"


@pytest.mark.parametrize("unit", ["stepaudiod.service", "stepaudiod@gpu0.service"])
def test_no_limit_can_fail_a_service(machine: Machine, unit: str) -> None:
    assert machine.show(unit, "StartLimitIntervalUSec") == "0"


def test_the_daemon_doesnt_turn_on_the_socket_of_the_former_api(machine: Machine) -> None:
    pulled_in = machine.show("stepaudiod.service", "Wants") + machine.show("stepaudiod.service", "Requires")
    assert "stepaudiod-api.socket" not in pulled_in
    assert "stepaudiod-api.socket" in machine.show("stepaudiod.service", "TriggeredBy")


@pytest.mark.parametrize("unit", ["stepaudiod.service", "stepaudiod@gpu0.service"])
def test_a_service_cannot_take_the_whole_machine(machine: Machine, unit: str) -> None:
    total = int(machine.run("sed", "-n", r"s/^MemTotal: *\([0-9]*\) kB$/\1/p", "/proc/meminfo").stdout) << 10
    assert int(machine.show(unit, "MemoryMax")) < total
    assert int(machine.show(unit, "TasksMax")) < 10_000


@pytest.fixture
def awake(machine: Machine) -> Iterator[Machine]:
    """The machine with a daemon whose credential store holds a list of API keys."""
    machine.write("/etc/stepaudiod/stepaudiod.toml", 'engine = "hibari"\n')
    machine.write("/etc/credstore/stepaudiod.api-keys", "laptop:0123\n", mode=0o600)
    machine.systemctl("start", "stepaudiod.socket")
    assert machine.request("GET", "/healthz").status == 200
    yield machine
    machine.reset("stepaudiod.service", "stepaudiod.socket")
    machine.remove("/etc/credstore/stepaudiod.api-keys")


def test_api_keys_of_the_credential_store_reach_the_daemon_alone(awake: Machine) -> None:
    path = "/run/credentials/stepaudiod.service/api-keys"
    assert awake.run("cat", path, user="_stepaudio").stdout == "laptop:0123\n"
    assert awake.run("cat", path, user="nobody", check=False).returncode != 0


def test_what_is_spooled_goes_to_a_private_folder_on_disk(awake: Machine) -> None:
    process = awake.main_process("stepaudiod.service")
    environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    assert b"TMPDIR=/var/tmp" in environment
    mounts = Path(f"/proc/{process}/mountinfo").read_text()
    assert re.search(r"systemd-private-[0-9a-f]+-stepaudiod\.service-\w+/tmp /var/tmp ", mounts)


def test_nothing_is_logged_about_a_missing_gpu(awake: Machine) -> None:
    assert awake.show("stepaudiod-gpu.service", "ConditionResult") == "no"
    assert "stepaudiod-gpu.service" not in awake.journal.tail(lines=1000)
