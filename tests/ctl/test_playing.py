"""The first installed player plays the audio; here it is a script that stores its input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.ctl.conftest import DEADLINE_S, LONG_TEXT, Ctl, HandStarted, add_program

TEXT = "Hello there, this is a test."


@pytest.fixture
def heard(programs: Path, tmp_path: Path) -> Path:
    """The input of `aplay`."""
    add_program(programs, "aplay", f'echo "$@" > {tmp_path}/arguments; cat > {tmp_path}/heard')
    return tmp_path / "heard"


def test_the_player_gets_the_audio(shared_ctl: Ctl, heard: Path) -> None:
    shared_ctl.ok("say", TEXT, "--seed", "7")
    assert heard.read_bytes() == shared_ctl.ok("say", TEXT, "--seed", "7", "-o", "-", "--format", "pcm")
    assert "-r 24000" in heard.with_name("arguments").read_text()


def test_the_first_player_that_is_installed_plays(shared_ctl: Ctl, heard: Path, programs: Path) -> None:
    add_program(programs, "pw-play", "cat > /dev/null")
    assert json.loads(shared_ctl.ok("say", TEXT, "--json"))["player"] == "pw-play"
    assert not heard.exists()


def test_a_player_can_be_chosen(shared_ctl: Ctl, heard: Path, programs: Path) -> None:
    add_program(programs, "pw-play", "exit 1")
    assert json.loads(shared_ctl.ok("say", TEXT, "--player", "aplay", "--json"))["player"] == "aplay"
    assert heard.exists()


def test_sound_starts_before_the_text_is_done(hand_started: HandStarted, ctl: Ctl, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ear")
    add_program(Path(ctl.path), "aplay", f"exec cat > {tmp_path}/ear")
    process = ctl.start("say", LONG_TEXT)
    with (tmp_path / "ear").open("rb") as ear:
        assert len(ear.read(4096)) == 4096
        assert json.loads(ctl.ok("status", "--json"))["daemon"]["active"] == 1
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    hand_started.wait_for("hibari cancelled")


def test_no_player_is_an_error_of_its_own(shared_ctl: Ctl) -> None:
    done = shared_ctl.run("say", TEXT)
    assert done.returncode == 5
    assert b"-o speech.mp3" in done.stderr


def test_a_player_that_fails_is_named(shared_ctl: Ctl, programs: Path) -> None:
    add_program(programs, "aplay", "echo no sound card >&2; exit 1")
    done = shared_ctl.run("say", TEXT)
    assert done.returncode == 5
    assert b"no sound card" in done.stderr
    assert b"aplay could not play the audio (exit status 1)" in done.stderr


def test_a_player_that_is_closed_ends_the_work(hand_started: HandStarted, ctl: Ctl) -> None:
    add_program(Path(ctl.path), "aplay", "head -c 1000 > /dev/null")
    assert ctl.ok("say", LONG_TEXT) == b""
    hand_started.wait_for("hibari cancelled")


def test_progress_is_for_terminals(shared_ctl: Ctl, tmp_path: Path) -> None:
    main, side = os.openpty()
    process = shared_ctl.start("say", TEXT, "-o", str(tmp_path / "a.wav"), stderr=side)
    os.close(side)
    process.communicate(timeout=DEADLINE_S)
    shown = b""
    try:
        while part := os.read(main, 4096):
            shown += part
    except OSError:
        os.close(main)  # the other end of the terminal is closed
    assert process.returncode == 0
    assert b"s of audio" in shown
    assert shown.rstrip().endswith(b"s of audio")


def test_quiet_shows_a_terminal_nothing(shared_ctl: Ctl, tmp_path: Path) -> None:
    main, side = os.openpty()
    process = shared_ctl.start("say", TEXT, "-o", str(tmp_path / "a.wav"), "--quiet", stderr=side)
    process.communicate(timeout=DEADLINE_S)
    os.set_blocking(main, False)
    with pytest.raises(BlockingIOError):
        os.read(main, 1)
    os.close(main)
    os.close(side)


def test_audio_is_not_written_to_a_terminal(shared_ctl: Ctl) -> None:
    main, side = os.openpty()
    process = shared_ctl.start("say", TEXT, "-o", "-", stdout=side, stderr=subprocess.PIPE)
    _, complaint = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert b"terminal" in complaint
    os.close(main)
    os.close(side)
