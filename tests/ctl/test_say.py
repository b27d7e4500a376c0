"""`stepaudioctl say`: texts, files and pipes."""

from __future__ import annotations

import json
import os
import signal
import stat
import struct
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import pytest

from tests.ctl.conftest import DEADLINE_S, LONG_TEXT, Ctl, HandStarted, StartByHand

TEXT = "Hello there, this is a test."
PCM_BYTES_PER_S = 48_000


def decoded_seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


@pytest.mark.parametrize(
    ("extension", "codec"),
    [
        ("mp3", "mp3"),
        ("opus", "opus"),
        ("ogg", "opus"),
        ("aac", "aac"),
        ("flac", "flac"),
        ("wav", "pcm_s16le"),
    ],
)
def test_the_extension_decides_the_format(
    shared_ctl: Ctl, tmp_path: Path, extension: str, codec: str
) -> None:
    path = tmp_path / f"hello.{extension}"
    assert shared_ctl.ok("say", TEXT, "-o", str(path)) == b""
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name.startswith(codec)
    assert 1.0 < decoded_seconds(path) < 5.0


def test_pcm_has_no_header(shared_ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "hello.PCM"
    shared_ctl.ok("say", TEXT, "-o", str(path))
    assert 1.0 < path.stat().st_size / PCM_BYTES_PER_S < 5.0


def test_format_overrides_the_extension(shared_ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "hello.wav"
    shared_ctl.ok("say", TEXT, "-o", str(path), "--format", "flac")
    assert path.read_bytes().startswith(b"fLaC")


def test_a_wav_file_has_its_real_length(shared_ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "hello.wav"
    shared_ctl.ok("say", TEXT, "-o", str(path))
    with wave.open(str(path)) as file:
        frames = file.getnframes()
        assert len(file.readframes(frames + 1)) == frames * 2
    data = path.read_bytes()
    assert data.endswith(b"data" + struct.pack("<I", frames * 2) + data[-frames * 2 :])
    assert int.from_bytes(data[4:8], "little") == len(data) - 8


@pytest.mark.parametrize("way", [("-o", "-"), ("-",), ("--voice", "heart", "-")])
def test_a_pipe_gets_wav(shared_ctl: Ctl, way: tuple[str, ...]) -> None:
    audio = shared_ctl.ok("say", TEXT, *way)
    assert audio[:4] == b"RIFF"
    assert len(audio) > PCM_BYTES_PER_S


def test_a_pipe_gets_the_format_that_is_asked_for(shared_ctl: Ctl) -> None:
    assert shared_ctl.ok("say", TEXT, "-o", "-", "--format", "opus").startswith(b"OggS")


@pytest.mark.parametrize("way", [(), ("-",)])
def test_without_a_text_standard_input_is_read(shared_ctl: Ctl, way: tuple[str, ...]) -> None:
    said = shared_ctl.ok("say", *way, "-o", "-", "--seed", "7", stdin=TEXT.encode())
    assert said == shared_ctl.ok("say", TEXT, "-o", "-", "--seed", "7")


def test_a_file_is_read(shared_ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    said = shared_ctl.ok("say", "--file", str(tmp_path / "text"), "-o", "-", "--seed", "7")
    assert said == shared_ctl.ok("say", TEXT, "-", "--seed", "7")


def test_voice_model_and_speed_reach_the_daemon(shared_ctl: Ctl) -> None:
    fast = shared_ctl.ok("say", TEXT, "-", "--voice", "heart", "--model", "hibari", "--speed", "2")
    assert len(fast) < 0.75 * len(shared_ctl.ok("say", TEXT, "-"))


def test_json_says_what_was_written(shared_ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "hello.wav"
    said = json.loads(shared_ctl.ok("say", TEXT, "-o", str(path), "--json"))
    assert said["output"] == str(path)
    assert said["format"] == "wav"
    assert said["duration_s"] == pytest.approx(decoded_seconds(path))


def test_json_leaves_a_pipe_to_the_audio(shared_ctl: Ctl) -> None:
    done = shared_ctl.run("say", TEXT, "-o", "-", "--json")
    assert done.stdout.startswith(b"RIFF")
    assert json.loads(done.stderr)["size_bytes"] == len(done.stdout)


def test_a_url_is_asked_over_tcp(shared_daemon: HandStarted, programs: Path) -> None:
    ctl = Ctl(("--url", shared_daemon.url + "/", "--api-key", "secret"), str(programs))
    assert ctl.ok("say", TEXT, "-").startswith(b"RIFF")


def test_a_file_has_the_permissions_of_any_new_file(shared_ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    shared_ctl.ok("say", TEXT, "-o", str(tmp_path / "hello.wav"))
    assert (tmp_path / "hello.wav").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_link_stays_a_link(shared_ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "hello.wav")
    shared_ctl.ok("say", TEXT, "-o", str(tmp_path / "link.wav"))
    assert (tmp_path / "link.wav").is_symlink()
    assert (tmp_path / "hello.wav").stat().st_size > PCM_BYTES_PER_S


def test_a_named_pipe_is_written_to_and_stays_one(shared_ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "fifo.wav"
    os.mkfifo(path)
    ctl = shared_ctl.start("say", TEXT, "-o", str(path))
    assert path.read_bytes().startswith(b"RIFF")
    ctl.communicate(timeout=DEADLINE_S)
    assert ctl.returncode == 0
    assert stat.S_ISFIFO(path.stat().st_mode)


def begin(ctl: Ctl) -> subprocess.Popen[bytes]:
    """`say` with a long text, once its audio has begun."""
    process = ctl.start("say", LONG_TEXT, "-o", "-")
    assert process.stdout is not None
    assert process.stdout.read(4) == b"RIFF"
    return process


def test_ctrl_c_stops_the_work_of_the_daemon(hand_started: HandStarted, ctl: Ctl) -> None:
    process = begin(ctl)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, complaint) == (130, b"")
    hand_started.wait_for("hibari cancelled")
    daemon = json.loads(ctl.ok("status", "--json"))["daemon"]
    assert daemon["requests"]["cancelled"] == 1
    assert daemon["active"] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_download_leaves_nothing(
    hand_started: HandStarted, ctl: Ctl, tmp_path: Path, number: int, code: int
) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "old.wav").write_text("what was there before")
    process = ctl.start("say", LONG_TEXT, "-o", str(folder / "old.wav"))
    hand_started.wait_for("hibari loaded")
    process.send_signal(number)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [
        ("old.wav", "what was there before")
    ]


def test_a_reader_that_leaves_ends_the_work_quietly(hand_started: HandStarted, ctl: Ctl) -> None:
    process = begin(ctl)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(DEADLINE_S) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
    hand_started.wait_for("hibari cancelled")


def test_a_full_disk_makes_the_audio_incomplete(shared_ctl: Ctl) -> None:
    for output in ("/dev/full", "-"):
        with open("/dev/full", "wb") as full:
            process = shared_ctl.start("say", TEXT, "-o", output, "--format", "wav", stdout=full)
            _, complaint = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 4
        assert b"No space left on device" in complaint


def test_a_worker_that_dies_makes_the_audio_incomplete(ctl: Ctl) -> None:
    process = begin(ctl)
    os.kill(json.loads(ctl.ok("status", "--json"))["daemon"]["worker_pid"], signal.SIGKILL)
    _, complaint = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 4
    assert b"cut the audio off" in complaint


def test_a_busy_daemon_is_asked_again(start_by_hand: StartByHand, programs: Path) -> None:
    daemon = start_by_hand(limits__concurrency=1, limits__max_queue=0)
    ctl = Ctl(("--socket", daemon.socket), str(programs))
    first = begin(ctl)
    with ThreadPoolExecutor(1) as reader:
        reader.submit(first.communicate)  # a client that doesn't read would give its turn back
        second = ctl.start("say", TEXT, "-o", "-")
        daemon.wait_for("hibari refused")
        first.kill()
    audio, complaint = second.communicate(timeout=DEADLINE_S)
    assert (second.returncode, complaint) == (0, b"")
    assert audio.startswith(b"RIFF")
