"""`pip install` of the sdist on a bare root, without a compiler; the daemon by hand and under systemd."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from tests.releases.conftest import CHECKOUT, HOME, Release

pytestmark = [pytest.mark.systemd, pytest.mark.slow]

INSTALL_S = 1800.0
PORT = 7861
SERVICE = f"""\
[Service]
Type=notify
User=reader
WatchdogSec=2s
ExecStart={HOME}/env/bin/stepaudiod --set=idle_timeout=60 --set=engine=hibari
"""
SOCKET = f"[Socket]\nListenStream=127.0.0.1:{PORT}\nFileDescriptorName=api\n"


@pytest.fixture(scope="module")
def installed(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A machine on which pip has installed the sdist, and apt nothing but Python and curl."""
    folder = tmp_path_factory.mktemp("sdist")
    build = [sys.executable, "setup.py", "--quiet", "sdist", f"--dist-dir={folder}"]
    subprocess.run(build, cwd=CHECKOUT, check=True)
    (sdist,) = folder.iterdir()
    release.machine.copy_in(sdist, f"{HOME}/stepaudiod.tar.gz")
    packages = "apt-get -qq -y --no-install-recommends install ca-certificates curl python3-venv"
    release.run(f"sudo apt-get -qq update && sudo {packages}", timeout_s=INSTALL_S)
    assert release.machine.run("sh", "-c", "command -v cc gcc pkg-config", check=False).stdout == ""
    release.run("python3 -m venv env && env/bin/pip install --quiet ./stepaudiod.tar.gz", timeout_s=INSTALL_S)
    return release


def test_it_speaks_when_started_by_hand(installed: Release) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    body = '{"model": "tts-1", "voice": "alloy", "input": "Hello from pip.", "response_format": "wav"}'
    installed.run(f"""
        env/bin/stepaudiod --set 'listen.http=["127.0.0.1:{port}"]' --set idle_timeout=1 2> log &
        curl -sS --fail-with-body --retry 60 --retry-connrefused -o en.wav -d '{body}' \\
          http://127.0.0.1:{port}/v1/audio/speech || {{ cat log; exit 1; }}
        wait $!
    """)
    assert installed.machine.path(f"{HOME}/en.wav").read_bytes()[:4] == b"RIFF"
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    assert f"(commit {head.stdout.strip()}" in installed.run("env/bin/stepaudioctl --version")


def test_systemd_and_its_journal_hear_of_it(installed: Release) -> None:
    machine = installed.machine
    machine.write("/etc/systemd/system/pip.service", SERVICE)
    machine.write("/etc/systemd/system/pip.socket", SOCKET)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "pip.socket")
    mark = machine.journal.mark()
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav"})
    headers = {"X-Request-Id": "from-pip"}
    at = ("127.0.0.1", PORT)
    assert machine.request("POST", "/v1/audio/speech", body.encode(), headers, at=at).status == 200
    assert machine.request("GET", "/", at=at).status == 404, "the socket's name makes it one of the API"
    entry = machine.journal.wait_for(lambda entry: entry.get("REQUEST_ID") == "from-pip", since=mark)
    assert entry["ENGINE"] == "hibari"
    machine.wait_until(
        lambda: machine.show("pip.service", "StatusText").startswith("asleep in"), "the status is known"
    )
    front = machine.main_process("pip.service")
    machine.systemctl("kill", "--signal=STOP", "--kill-whom=main", "pip.service")
    machine.wait_for_exit(front, timeout_s=30)
