"""Recordings behind URLs, under the shipped unit: it lets nothing out, and the documented drop-in does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.systemd.conftest import CHECKOUT
from tests.systemd.internet import Internet
from tests.systemd.machine import Machine
from tests.systemd.network import Reply
from tests.web.conftest import hum, wav

pytestmark = pytest.mark.slow

SERVICE, SOCKET = "stepaudiod.service", "stepaudiod.socket"
SETTINGS = 'engine = "auto"\nallow_url_fetch = true\ntimeouts.fetch = 5\n'
RECORDING = wav(hum())


@pytest.fixture
def internet(machine: Machine) -> Iterator[Internet]:
    machine.write("/etc/stepaudiod/stepaudiod.toml", SETTINGS)
    machine.systemctl("start", SOCKET)
    with Internet.beside(machine.leader) as beside:
        beside.files["/hum.wav"] = RECORDING
        yield beside
    machine.reset(SERVICE, SOCKET)


def ask(machine: Machine, url: str) -> Reply:
    """A request of an old client with a remote recording."""
    body = {"input": "", "step_audio": {"mode": "denoise", "input_audio_url": url}}
    return machine.request("POST", "/v1/audio/speech", json.dumps(body).encode(), timeout_s=60)


def refusal(reply: Reply) -> str:
    """The reason of the refusal."""
    assert reply.status == 400, reply.body
    error = json.loads(reply.body)["error"]
    assert error["param"] == "step_audio.input_audio_url"
    return str(error["message"])


def documented_drop_in() -> str:
    """What docs/moving.md shows below `systemctl edit`."""
    text = (CHECKOUT / "docs/moving.md").read_text()
    about = text[text.index("The URL fields work only") :]
    found = re.search(r"```ini\n(.*?)```", about, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_unit_blocks_outgoing_connections_and_the_error_says_so(
    machine: Machine, internet: Internet
) -> None:
    assert "drop-in" in refusal(ask(machine, internet.url("/hum.wav")))
    assert internet.asked == []


def test_with_the_drop_in_recordings_come_from_outside_and_from_nowhere_else(
    machine: Machine, internet: Internet
) -> None:
    machine.drop_in(SERVICE, documented_drop_in())
    reply = ask(machine, internet.url("/hum.wav"))
    assert reply.status == 200, reply.body
    assert reply.headers["X-StepAudio-Model"] == "studio"
    assert len(reply.body) > len(RECORDING) / 4
    internet.redirects["/inward"] = "http://127.0.0.1:7860/hum.wav"
    internet.redirects["/here"] = "http://1.2.3.2:7860/hum.wav"
    for path in ("/inward", "/here"):
        assert "public internet" in refusal(ask(machine, internet.url(path)))
    assert "public internet" in refusal(ask(machine, "http://169.254.169.254/latest"))
    assert "404" in refusal(ask(machine, internet.url("/nothing")))
    assert internet.asked == ["/hum.wav", "/inward", "/here", "/nothing"]
