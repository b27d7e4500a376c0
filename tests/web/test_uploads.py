"""Recordings on their way in: how many at a time, a disk that is full, and what is left afterwards."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav

HUM = wav(hum())
FORM = (
    b'--edge\r\nContent-Disposition: form-data; name="mode"\r\n\r\ndenoise\r\n'
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    + HUM
    + b"\r\n--edge--\r\n"
)
ONE_AT_A_TIME = {"limits.concurrency": 1, "limits.max_queue": 0}


class SlowUpload:
    """A client that has been told to go on with its form, and hasn't yet."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._socket = socket.create_connection(daemon.address, DEADLINE_S)
        self._socket.sendall(
            b"POST /v1/audio/edits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Expect: 100-continue\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
            b"Content-Length: %d\r\n\r\n" % len(FORM)
        )
        assert self._socket.recv(100).startswith(b"HTTP/1.1 100 ")

    def finish(self) -> bytes:
        """Send it; the status line and what follows."""
        self._socket.sendall(FORM)
        with self._socket, self._socket.makefile("rb") as answer:
            return answer.read()


def test_no_more_recordings_are_taken_than_can_be_worked_on(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"engine": "auto", **ONE_AT_A_TIME})
    client = daemon.shared_client
    files = {"file": ("a.wav", HUM)}
    first = SlowUpload(daemon)
    refused = client.post("/v1/audio/edits", data={"mode": "denoise"}, files=files)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    inline = {"mode": "denoise", "input_audio_base64": base64.b64encode(HUM).decode()}
    old = client.post("/v1/audio/speech", json={"input": "x", "step_audio": inline})
    assert old.status_code == 429, old.text
    plain = {"model": "hibari", "voice": "heart", "input": "Words need no place on the disk."}
    assert client.post("/v1/audio/speech", json=plain).status_code == 200
    assert first.finish().startswith(b"HTTP/1.1 200 ")
    assert client.post("/v1/audio/edits", data={"mode": "denoise"}, files=files).status_code == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own with room for next to nothing."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can make a disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_said_and_loses_nothing(start_daemon: StartDaemon, small_disk: Path) -> None:
    daemon = start_daemon({"engine": "auto"}, environ={"TMPDIR": str(small_disk)})
    client = daemon.shared_client
    long = wav(hum(9.0))
    form = client.post("/v1/audio/edits", data={"mode": "denoise"}, files={"file": ("a.wav", long)})
    inline = {"mode": "denoise", "input_audio_base64": base64.b64encode(long).decode()}
    for answer in (form, client.post("/v1/audio/speech", json={"input": "x", "step_audio": inline})):
        assert answer.status_code == 507, answer.text
        assert answer.json()["error"]["code"] == "disk_full"
    short = {"file": ("a.wav", wav(hum(0.6)))}
    assert client.post("/v1/audio/edits", data={"mode": "denoise"}, files=short).status_code == 200
    client.get("/healthz")
    assert list(small_disk.iterdir()) == []
