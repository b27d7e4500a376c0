"""An installation that can't run: clients get the reason, the socket stays, and nothing spins."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.systemd.conftest import CHECKOUT
from tests.systemd.machine import TCP4, UNIX, Machine

SOCKET, SERVICE = "stepaudiod.socket", "stepaudiod.service"
MODULES = "/run/modules"


@pytest.fixture
def asleep(machine: Machine) -> Iterator[Machine]:
    machine.remove("/etc/stepaudiod/stepaudiod.toml")
    machine.systemctl("start", SOCKET)
    yield machine
    machine.reset(SERVICE, SOCKET)
    machine.remove(MODULES)


def test_a_module_that_cannot_be_imported_is_named(asleep: Machine) -> None:
    asleep.write(f"{MODULES}/uvicorn.py", "import no_such_module\n")
    asleep.drop_in(SERVICE, f"[Service]\nEnvironment=PYTHONPATH={MODULES}:{CHECKOUT}\n")

    replies = [
        asleep.request("GET", "/healthz", at=TCP4),
        asleep.request("POST", "/v1/audio/speech", b"x" * 1_000_000, at=UNIX),
    ]

    for reply in replies:
        assert reply.status == 503
        assert "No module named 'no_such_module'" in json.loads(reply.body)["error"]["message"]
    assert asleep.show(SERVICE, "NRestarts") == "0"
    assert asleep.show(SERVICE, "ActiveState") == "active"
    assert "no_such_module" in asleep.show(SERVICE, "StatusText")
    asleep.remove(f"{MODULES}/uvicorn.py")
    asleep.systemctl("restart", SERVICE)
    assert asleep.request("GET", "/healthz").status == 200


def test_without_python_the_connections_wait_and_a_restart_serves_them(asleep: Machine) -> None:
    asleep.drop_in(SERVICE, "[Service]\nExecStart=\nExecStart=/nowhere/python\n")
    with asleep.connect(UNIX) as waiting:
        waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        asleep.wait_until(lambda: asleep.show(SERVICE, "SubState") == "auto-restart", "the start has failed")
        assert asleep.show(SOCKET, "ActiveState") == "active"
        assert asleep.show(SERVICE, "RestartUSec") == "5s"

        asleep.remove(f"/run/systemd/system/{SERVICE}.d/test.conf")
        asleep.systemctl("daemon-reload")
        asleep.systemctl("restart", SERVICE)

        assert waiting.recv(100).startswith(b"HTTP/1.1 200")


def test_a_disabled_service_leaves_the_socket_enabled(asleep: Machine) -> None:
    asleep.systemctl("enable", SOCKET, SERVICE)
    asleep.systemctl("disable", SERVICE)
    assert asleep.show(SOCKET, "UnitFileState") == "enabled"
    asleep.systemctl("disable", SOCKET)
