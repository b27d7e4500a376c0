"""Uploads: their number at a time, a full disk, and what is left afterwards."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import threading
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


class Upload:
    """A client that has been told to continue with its form, and sends a chunk at a time."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._socket = socket.create_connection(daemon.address, DEADLINE_S)
        self._socket.sendall(
            b"POST /v1/audio/edits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Expect: 100-continue\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        assert self._socket.recv(100).startswith(b"HTTP/1.1 100 ")

    def send(self, data: bytes) -> None:
        """Send a chunk; an empty one is the end."""
        self._socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def drip(self, until: threading.Event) -> None:
        """Send bytes before the form, which form parsers skip, at the minimum upload rate."""
        while not until.wait(0.01):
            self.send(b"\r\n" * 500)

    def finish(self) -> bytes:
        """Send the form; return the status line and the rest."""
        self.send(FORM)
        self.send(b"")
        return self.answer()

    def answer(self) -> bytes:
        """The status line and the rest."""
        with self._socket, self._socket.makefile("rb") as answer:
            return answer.read()


def test_the_number_of_concurrent_uploads_is_limited(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"engine": "auto", "limits.min_rate": 1, **ONE_AT_A_TIME})
    client = daemon.shared_client
    files = {"file": ("a.wav", HUM)}
    first, is_over = Upload(daemon), threading.Event()
    dripping = threading.Thread(target=first.drip, args=(is_over,))
    dripping.start()
    try:
        refused = client.post("/v1/audio/edits", data={"mode": "denoise"}, files=files)
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == "1"
        inline = {"mode": "denoise", "input_audio_base64": base64.b64encode(HUM).decode()}
        old = client.post("/v1/audio/speech", json={"input": "x", "step_audio": inline})
        assert old.status_code == 429, old.text
        plain = {"model": "hibari", "voice": "heart", "input": "Words need no place on the disk."}
        assert client.post("/v1/audio/speech", json=plain).status_code == 200
    finally:
        is_over.set()
        dripping.join(DEADLINE_S)
    assert first.finish().startswith(b"HTTP/1.1 200 ")
    assert client.post("/v1/audio/edits", data={"mode": "denoise"}, files=files).status_code == 200


def test_a_stalled_upload_loses_its_slot_to_the_next(start_daemon: StartDaemon) -> None:
    """Also if the next arrives before the first is known to have stopped."""
    daemon = start_daemon({"engine": "auto", **ONE_AT_A_TIME})
    assert Upload(daemon).finish().startswith(b"HTTP/1.1 200 ")  # whatever is imported once is there
    stopped = Upload(daemon)
    stopped.send(FORM[:200])
    answer = Upload(daemon).finish()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert stopped.answer().startswith(b"HTTP/1.1 408 ")


def test_a_form_without_its_end_is_refused(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"engine": "auto"})
    for end in (b"\r\n", b"\r\n--edge\r\n", b""):
        broken = FORM[: FORM.rindex(b"\r\n--edge--")] + end
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        answer = daemon.shared_client.post("/v1/audio/edits", content=broken, headers=kind)
        assert answer.status_code == 400, answer.text
        assert "closing boundary" in answer.json()["error"]["message"]


def test_a_long_text_field_is_spooled_and_read_back(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"engine": "auto"})
    edit = json.dumps({"mode": "denoise", "input_audio_base64": base64.b64encode(HUM).decode()})
    bodies = [f'{{"input": "x", {" " * spaces}"step_audio": {edit}}}' for spaces in (0, 300_000)]
    short, long = (daemon.shared_client.post("/v1/audio/speech", content=body) for body in bodies)
    assert short.status_code == 200, short.text
    assert long.content == short.content


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a very small file system."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can make a disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_reported_and_loses_nothing(start_daemon: StartDaemon, small_disk: Path) -> None:
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


def test_an_unread_response_holds_no_slot(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"engine": "auto", "limits.concurrency": 1, "limits.max_queue": 1})
    said = "One more sentence of a text that is too long for the memory. " * 1200
    body = json.dumps({"model": "hibari", "voice": "heart", "input": said, "response_format": "pcm"})
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with contextlib.ExitStack() as readers:
        for _ in range(2):
            reader = readers.enter_context(socket.create_connection(daemon.address, DEADLINE_S))
            reader.sendall(f"{head}{body}".encode())
            assert reader.recv(15) == b"HTTP/1.1 200 OK"
        files = {"file": ("a.wav", HUM)}
        answer = daemon.shared_client.post("/v1/audio/edits", data={"mode": "denoise"}, files=files)
    assert answer.status_code == 200, answer.text
