"""The decoder process: its results equal in-process decoding, it is sandboxed, and it may die."""

from __future__ import annotations

import io
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest

from stepaudiod.audio.decode import decode
from stepaudiod.errors import InvalidRequest, TooLarge
from stepaudiod.worker.decoder_process import Decoders
from tests.activation import DEADLINE_S, pids_of_group
from tests.audio.bombs import BOMBS, encoded
from tests.web.damage import good

LONG_S = 590


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders()
    yield made
    made.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "clip").write_bytes(good()["clip.mp3"])
    return tmp_path / "clip"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording whose decoding takes long enough to observe it."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    path.write_bytes(encoded("flac", "flac", LONG_S, 48_000))
    return path


class AtFirstPacket:
    """Runs a function once the decoder is working, as often as configured."""

    def __init__(self, act: signal.Signals, times: int = 1) -> None:
        self.left, self._signal = times, act

    def __call__(self) -> bool:
        if self.left and (pids := decoder_pids()):
            self.left -= 1
            os.kill(max(pids), self._signal)
        return False


def decoder_pids() -> list[int]:
    """The decoders among this process's children, without those of other tests."""
    children = set(pids_of_group(os.getpid()))
    return [pid for pid in children if b"decoder_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def newest_decoder() -> int:
    return max(decoder_pids())


def test_it_reads_what_this_process_reads(decoders: Decoders, tmp_path: Path) -> None:
    for name, data in good().items():
        (tmp_path / name).write_bytes(data)
        expected, expected_rate = decode(data)
        waveform, rate = decoders.decode(tmp_path / name)
        assert rate == expected_rate
        assert np.array_equal(waveform, expected), name
    assert len(decoder_pids()) == 1


def subtitled(container_format: str, codec: str) -> bytes:
    """A second of sound with a line of text."""
    output = io.BytesIO()
    with av.open(output, "w", format=container_format) as container:
        sound = cast(Any, container.add_stream("aac", rate=16_000, layout="mono"))
        text = cast(Any, container.add_mux_stream(codec))
        text.time_base = Fraction(1, 1000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*sound.encode(frame), *sound.encode(None)])
        line = av.Packet(b"Hello")
        line.stream, line.pts, line.dts, line.duration = text, 100, 100, 500
        line.time_base = text.time_base
        container.mux(line)
    return output.getvalue()


@pytest.mark.parametrize(("container_format", "codec"), [("mp4", "mov_text"), ("mpegts", "dvb_subtitle")])
def test_sound_with_subtitles_is_read(
    container_format: str, codec: str, decoders: Decoders, tmp_path: Path
) -> None:
    (tmp_path / "film").write_bytes(subtitled(container_format, codec))
    waveform, rate = decoders.decode(tmp_path / "film")
    assert (rate, round(len(waveform) / rate)) == (16_000, 1)


def test_every_part_of_pyav_is_there_before_the_sandbox() -> None:
    code = """if True:
        import av, pkgutil, sys
        from stepaudiod.worker.decoder_main import _warm_up
        _warm_up()
        parts = {each.name for each in pkgutil.walk_packages(av.__path__, "av.")}
        print(*sorted(parts - set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) <= {"av.__main__", "av.datasets", "av.subtitles.subtitle"}


def test_what_is_wrong_with_a_recording_comes_back(decoders: Decoders, tmp_path: Path, clip: Path) -> None:
    (tmp_path / "none").write_bytes(b"hello, world " * 100)
    with pytest.raises(InvalidRequest, match="can't be read") as raised:
        decoders.decode(tmp_path / "none", param="ref_audio")
    assert raised.value.param == "ref_audio"
    with pytest.raises(TooLarge, match=r"limits\.max_audio"):
        decoders.decode(clip, {"max_seconds": 0.1})


def test_a_table_that_claims_much_leaves_it_alive(decoders: Decoders, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(BOMBS["an endless table"]())
    with pytest.raises(InvalidRequest, match="too little of it"):
        decoders.decode(tmp_path / "bomb")
    assert len(decoder_pids()) == 1


def test_a_decoder_that_dies_is_replaced(
    decoders: Decoders, clip: Path, long: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        waveform, rate = decoders.decode(long, is_unwanted=AtFirstPacket(signal.SIGKILL))
    assert len(waveform) == LONG_S * rate
    assert "a new one takes its place" in caplog.text
    with pytest.raises(InvalidRequest, match=r"damaged: the decoder died on it \(signal 11\)"):
        decoders.decode(long, is_unwanted=AtFirstPacket(signal.SIGSEGV, 2))
    with pytest.raises(InvalidRequest, match="took too much processor time"):
        decoders.decode(long, is_unwanted=AtFirstPacket(signal.SIGXCPU, 2))
    assert decoders.decode(clip)[1] == 24_000


def test_a_recording_that_takes_too_long_is_given_up(decoders: Decoders, long: Path) -> None:
    decoders.cpu_s, decoders.cpu_share = 0.05, 0.0
    with pytest.raises(InvalidRequest, match="took too long and was ended"):
        decoders.decode(long, is_unwanted=AtFirstPacket(signal.SIGSTOP, 2))


def test_a_request_that_is_cancelled_stops_its_decoding(decoders: Decoders, clip: Path, long: Path) -> None:
    with pytest.raises(InvalidRequest, match="cancelled"):
        decoders.decode(long, is_unwanted=lambda: True)
    kept = newest_decoder()
    assert decoders.decode(clip)[1] == 24_000
    assert newest_decoder() == kept


def test_a_short_recording_does_not_wait_for_a_long_one(decoders: Decoders, clip: Path, long: Path) -> None:
    stopped: list[int] = []
    begun = threading.Event()

    def stop() -> bool:
        if not begun.is_set():
            stopped.append(newest_decoder())
            os.kill(stopped[0], signal.SIGSTOP)
            begun.set()
        return False

    thread = threading.Thread(target=decoders.decode, args=(long, None, "file", stop))
    thread.start()
    assert begun.wait(DEADLINE_S)
    assert decoders.decode(clip)[1] == 24_000
    assert thread.is_alive()
    os.kill(stopped[0], signal.SIGCONT)
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


FORBIDDEN = """if True:
    import ctypes, errno, mmap, os, resource, socket
    from stepaudiod.worker.sandbox import restrict
    libc = ctypes.CDLL(None, use_errno=True)
    ours, theirs = socket.socketpair()
    page = mmap.mmap(-1, 4096)
    found = restrict()
    def tried(name, act):
        try:
            act()
        except PermissionError:
            return
        print(name)
    def code(result):
        if result == -1:
            raise PermissionError if ctypes.get_errno() == errno.EPERM else OSError
    tried("open", lambda: open("/etc/passwd"))
    tried("create", lambda: open("made", "w"))
    tried("list", lambda: os.listdir("/"))
    tried("socket", lambda: socket.socket())
    tried("fork", os.fork)
    tried("exec", lambda: os.execv("/bin/true", ["true"]))
    tried("kill", lambda: os.kill(os.getppid(), 0))
    tried("limits of others", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)))
    tried("code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC))
    tried("ptrace", lambda: code(libc.ptrace(0, 0, None, None)))
    theirs.send(b"and this goes on")
    assert ours.recv(100) == b"and this goes on"
    assert len(mmap.mmap(-1, 1 << 20)) == 1 << 20
    print("in force:", *found)
"""


def test_its_sandbox_leaves_nothing_but_its_socket_and_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORBIDDEN]
    done = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=DEADLINE_S
    )
    *possible, in_force = done.stdout.splitlines()
    assert "seccomp" in in_force
    assert possible == []


def test_it_is_restricted_before_it_reads_anything(decoders: Decoders, clip: Path) -> None:
    decoders.decode(clip)
    status = Path(f"/proc/{newest_decoder()}/status").read_text()
    limits = Path(f"/proc/{newest_decoder()}/limits").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert "Threads:\t1\n" in status
    for line in limits.splitlines():
        if line.startswith(("Max address space", "Max open files")):
            assert "unlimited" not in line
        if line.startswith("Max core file size"):
            assert line.split()[4:6] == ["0", "0"]


def test_it_leaves_with_its_worker(clip: Path) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from stepaudiod.worker.decoder_process import Decoders
        from tests.activation import pids_of_group
        Decoders().decode(Path(sys.argv[1]))
        print(*pids_of_group(os.getpid()))
        sys.stdout.flush()
        sys.stdin.read()
    """
    command = [sys.executable, "-c", code, str(clip)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        decoder = os.pidfd_open(int(worker.stdout.readline()))
        worker.kill()
    gone, _, _ = select.select([decoder], [], [], DEADLINE_S)
    os.close(decoder)
    assert gone, "the decoder is still there"
