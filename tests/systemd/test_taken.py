"""Ports that are taken: the process is named, and the advice works."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import CHECKOUT, UNITS
from tests.systemd.machine import UNIX, Machine

PYTHON = ("env", f"PYTHONPATH={CHECKOUT}", str(Path(sys.prefix).resolve() / "bin/python"))
CTL = (*PYTHON, "-m", "stepaudiod.ctl")
ACTIVATE = (*PYTHON, "-m", "stepaudiod.activate")
LISTEN = 'import socket, time; s = socket.create_server(("{}", 7860), family={}); time.sleep(1000)'
OTHER = f"[Service]\nExecStart=/usr/bin/python3 -c '{LISTEN}'\n"


@pytest.fixture(params=[("0.0.0.0", "socket.AF_INET"), ("::1", "socket.AF_INET6")], ids=lambda each: each[0])
def other(machine: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A service of another program at the port."""
    machine.write("/etc/systemd/system/other.service", OTHER.format(*request.param))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "other.service")
    machine.wait_until(lambda: 7860 in machine.listening_ports(), "the other program listens")
    yield "127.0.0.1:7860" if request.param[0] == "0.0.0.0" else "[::1]:7860"
    machine.systemctl("stop", "other.service")
    machine.remove("/etc/systemd/system/other.service")
    machine.reset("stepaudiod.socket", "stepaudiod.service")


def test_doctor_names_the_program_and_its_advice_works(machine: Machine, other: str) -> None:
    machine.systemctl("start", "stepaudiod.socket", check=False)
    assert machine.show("stepaudiod.socket", "ActiveState") == "failed"
    done = machine.run(*CTL, "doctor", "--json", check=False)
    assert done.returncode == 6
    (found,) = [each for each in json.loads(done.stdout)["findings"] if each["subject"] == other]
    pid = machine.show("other.service", "MainPID")
    assert found["level"] == "problem"
    assert f"(process {pid}, user root, unit other.service) listens on" in found["text"]
    advised = re.findall(r": (?:sudo )?(systemctl [^:;]*)", found["advice"])
    assert advised == ["systemctl disable --now other.service", "systemctl restart stepaudiod.socket"]
    for command in advised:
        machine.run(*shlex.split(command))
    assert machine.request("GET", "/healthz").status == 200


def test_the_activator_names_the_socket_unit_that_listens(machine: Machine) -> None:
    machine.systemctl("start", "stepaudiod.socket")
    try:
        for address in ("127.0.0.1:7860", "[::1]:7860", str(UNIX)):
            done = machine.run(*ACTIVATE, "--listen", address, check=False)
            assert done.returncode == 1
            assert (
                f"{address} is taken: systemd (process 1) listens on {address} for stepaudiod.socket."
                in done.stderr
            )
            assert "sudo systemctl stop stepaudiod.socket stepaudiod.service" in done.stderr
            assert "make run LISTEN=" in done.stderr
        machine.run("systemctl", "stop", "stepaudiod.socket", "stepaudiod.service")
        assert machine.listening_ports() == set()
    finally:
        machine.reset("stepaudiod.socket", "stepaudiod.service")


def test_an_instance_whose_port_is_taken_is_examined(machine: Machine) -> None:
    """Page and API apart, while the old API container still has its port."""
    container = "0123456789ab" + "c" * 52
    unit = f"docker-{container}.scope"
    listen = LISTEN.format("0.0.0.0", "socket.AF_INET").replace("7860", "8003")
    command = ("systemd-run", "--scope", f"--unit={unit}", "/usr/bin/python3", "-c", listen)
    with machine.spawn(*command):
        try:
            machine.wait_until(lambda: 8003 in machine.listening_ports(), "the container listens")
            machine.drop_in("stepaudiod@api.socket", (UNITS / "ways/apart-api.conf").read_text())
            machine.systemctl("start", "stepaudiod@api.socket", check=False)
            found = json.loads(machine.run(*CTL, "doctor", "--json", check=False).stdout)["findings"]
        finally:
            machine.systemctl("stop", unit, check=False)
            machine.reset("stepaudiod@api.socket", "stepaudiod@api.service")
    (port,) = [each for each in found if each["subject"] == "api: 127.0.0.1:8003"]
    assert port["level"] == "problem"
    stop = "docker update --restart=no 0123456789ab; docker stop 0123456789ab"
    assert port["advice"] == f"To stop it for good: {stop}; then: systemctl restart stepaudiod@api.socket"
