"""Access to a daemon that can be reached from the network, under the shipped units."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.systemd.conftest import CHECKOUT
from tests.systemd.machine import Machine

pytestmark = pytest.mark.slow

LAN = ("192.0.2.7", 7860)
SOCKET = f"[Socket]\nListenStream=\nListenStream={LAN[0]}:{LAN[1]}\nListenStream=/run/stepaudiod.sock\n"
CREDENTIAL = "[Service]\nSetCredential=api-keys:#\nLoadCredential=api-keys:/etc/stepaudiod/api-keys\n"
# netdevice(7), SIOCSIFADDR: the machine has no ip(8). To systemd's filter this address isn't "localhost".
ADD_ADDRESS = f"""
import fcntl, socket, struct
request = struct.pack("16sHH4s16x", b"lo:lan", socket.AF_INET, 0, socket.inet_aton("{LAN[0]}"))
fcntl.ioctl(socket.socket(), 0x8916, request)
"""
UNITS = ("stepaudiod.service", "stepaudiod.socket")


@pytest.fixture
def exposed(machine: Machine) -> Iterator[Machine]:
    """A machine with an address at which the socket listens."""
    machine.reset(*UNITS)
    machine.run("python3", "-c", ADD_ADDRESS)
    machine.path("/etc/stepaudiod").mkdir(exist_ok=True)
    machine.drop_in("stepaudiod.socket", SOCKET)
    machine.systemctl("start", "stepaudiod.socket")
    yield machine
    machine.reset(*UNITS)
    machine.remove("/etc/stepaudiod/api-keys")


def ask(machine: Machine, key: str | None = None) -> tuple[int, str | None]:
    """The status, and the code of an error."""
    headers = {"Host": LAN[0]} | ({"Authorization": f"Bearer {key}"} if key else {})
    reply = machine.request("GET", "/v1/models", headers=headers, at=LAN)
    return reply.status, json.loads(reply.body).get("error", {}).get("code")


def add_key(machine: Machine) -> str:
    """Make one, as docs/access.md says."""
    command = ("env", f"PYTHONPATH={CHECKOUT}", "python3", "-m", "stepaudiod.ctl", "keys", "add", "laptop")
    return machine.run(*command).stdout.strip()


def test_keys_open_a_socket_of_the_network(exposed: Machine) -> None:
    assert ask(exposed) == (503, "config_invalid")
    assert exposed.request("GET", "/healthz", headers={"Host": LAN[0]}, at=LAN).status == 200
    key = add_key(exposed)
    assert re.search(
        r"^640 root:_stepaudio$", exposed.run("stat", "-c", "%a %U:%G", "/etc/stepaudiod/api-keys").stdout
    )
    exposed.systemctl("reload", "stepaudiod.service")
    assert ask(exposed) == (401, "invalid_api_key")
    assert ask(exposed, key) == (200, None)


def test_a_credential_may_be_absent_and_may_be_roots_alone(exposed: Machine) -> None:
    exposed.drop_in("stepaudiod.service", CREDENTIAL)
    assert ask(exposed) == (503, "config_invalid")
    key = add_key(exposed)
    exposed.run("chown", "root:root", "/etc/stepaudiod/api-keys")
    exposed.run("chmod", "600", "/etc/stepaudiod/api-keys")
    exposed.systemctl("restart", "stepaudiod.service")
    assert ask(exposed, key) == (200, None)
