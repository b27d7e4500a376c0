"""The unit files themselves: systemd has nothing to say against them, and both services are alike."""

from __future__ import annotations

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
    assert len(files) == 5

    done = machine.run("systemd-analyze", "verify", "--man=no", *files, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_instances_have_the_same_service() -> None:
    assert common_lines("stepaudiod@.service") == common_lines("stepaudiod.service")


@pytest.mark.parametrize("unit", ["stepaudiod.service", "stepaudiod@gpu0.service"])
def test_the_sandbox_leaves_little_exposed(machine: Machine, unit: str) -> None:
    # In tenths: 1.5 of 10, where an ordinary service has 9.6.
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=15", unit)


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
