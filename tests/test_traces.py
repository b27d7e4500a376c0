"""What a daemon leaves on the disk, also when it is killed."""

from __future__ import annotations

import base64
import os
import resource
import socket
import stat
from pathlib import Path

import pytest

from stepaudiod.temp_dirs import LEAVING, UNFINISHED, TempDir, sweep
from stepaudiod.web.body import SPOOL
from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon
from tests.web.conftest import hum, wav
from tests.web.test_page import wait_until

BODY = b'{"input":"x","step_audio":{"mode":"denoise","input_audio_base64":"%s"}}' % base64.b64encode(
    wav(hum())
)
HALF = len(BODY) // 2


class HalfSent:
    """A half-received request, whose recording is in the spool."""

    def __init__(self, daemon: DaemonProcess, spool: Path) -> None:
        before = set(spool.iterdir())
        self._socket = socket.create_connection(daemon.address, DEADLINE_S)
        self._socket.sendall(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY[:HALF]
        )
        wait_until(lambda: any(set(new.iterdir()) for new in set(spool.iterdir()) - before))

    def finish(self) -> bytes:
        """Send the rest; return the response."""
        self._socket.sendall(BODY[HALF:])
        with self._socket, self._socket.makefile("rb") as answer:
            return answer.read()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def test_uploads_of_a_killed_daemon_are_removed_at_the_next_start(
    start_daemon: StartDaemon, spool: Path
) -> None:
    killed = start_daemon({"engine": "auto"}, environ={"TMPDIR": str(spool)})
    sending = HalfSent(killed, spool)
    killed.process.kill()
    killed.wait()
    sending.close()
    assert list(spool.glob("*/*"))
    mine = spool / f"{SPOOL}papers00"  # of the user, with a name like ours
    mine.mkdir()
    (mine / "letter.txt").touch()
    start_daemon({"engine": "auto"}, environ={"TMPDIR": str(spool)})
    assert list(spool.iterdir()) == [mine]


def test_a_starting_daemon_keeps_the_uploads_of_another_one(start_daemon: StartDaemon, spool: Path) -> None:
    first = start_daemon({"engine": "auto"}, environ={"TMPDIR": str(spool)})
    sending = HalfSent(first, spool)
    start_daemon({"engine": "auto"}, environ={"TMPDIR": str(spool)})
    assert sending.finish().startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: list(spool.iterdir()) == [])


def test_incomplete_and_partly_deleted_voices_are_removed_unless_in_use(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    voices, pages = tmp_path / "data" / "voices", tmp_path / "cache" / "page"
    for folder in (voices / f"{UNFINISHED}abc", voices / f"{LEAVING}def" / "mei", pages / f"{UNFINISHED}ghi"):
        folder.mkdir(parents=True)
        (folder / "reference.wav").touch()
    with TempDir(voices, UNFINISHED) as in_use:
        start_daemon({"data_dir": tmp_path / "data", "cache_dir": tmp_path / "cache"})
        assert (list(voices.iterdir()), list(pages.iterdir())) == ([in_use], [])


def test_links_are_not_followed_and_foreign_files_stay(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "file").touch()
    (tmp_path / f"{LEAVING}link").symlink_to(others)
    if os.geteuid() == 0:
        (tmp_path / f"{LEAVING}foreign").mkdir()
        os.chown(tmp_path / f"{LEAVING}foreign", 12345, 12345)
    before = set(tmp_path.iterdir())
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == before
    assert (others / "file").exists()


def test_neither_process_leaves_a_core_dump_and_no_file_is_world_readable(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    umask, limits = os.umask(0o000), resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
    try:
        daemon = start_daemon({"data_dir": tmp_path / "data", "cache_dir": tmp_path / "cache"})
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_CORE, limits)
    with daemon.client() as client:
        form = {"name": "Mei", "consent": "mine", "transcript": "a hum"}
        client.post("/v1/audio/voices", data=form, files={"audio_sample": ("hum.wav", wav(hum()))})
        client.get("/")
        wait_until(lambda: bool(client.get("/page/state").json()["ready"]))
    for pid in (daemon.process.pid, daemon.worker_pid()):
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (core,) = [line.split() for line in lines if line.startswith("Max core file size")]
        assert core[4:6] == ["0", "0"]
    made = [path for top in ("data", "cache") for path in (tmp_path / top).rglob("*")]
    assert {"voice.json", "reference.wav", "theme.css"} <= {path.name for path in made}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o007} == {}
    assert modes[tmp_path / "data" / "voices" / "mei"] == 0o700
