"""status, voices, unload: tables for people, JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

import stepaudiod
from tests.ctl.conftest import DEADLINE_S, LONG_TEXT, Ctl, HandStarted, StartByHand, add_program

SYSTEMCTL = """\
case "$1" in
list-sockets) echo "{socket} stepaudiod.socket stepaudiod.service" ;;
show) echo {state} ;;
esac"""

INSTANCES = """\
cat <<END
Id=stepaudiod@gpu1.socket
ActiveState=active
FileDescriptorName=http
Triggers=stepaudiod@gpu1.service
Listen=/run/stepaudiod-gpu1.sock (Stream)
END"""


def test_status_is_a_table(shared_ctl: Ctl) -> None:
    text = shared_ctl.ok("status").decode()
    assert text.startswith(f"stepaudiod   {stepaudiod.__version__} · ")
    assert "\nMODEL " in text
    assert "\nhibari " in text


def test_status_as_json_is_what_the_daemon_says(shared_ctl: Ctl) -> None:
    status = json.loads(shared_ctl.ok("--json", "status"))
    assert status["daemon"]["engine"] == "hibari"
    assert status["hibari"]["idle_timeout"] is None


def test_no_wake_lets_a_sleeping_daemon_sleep(programs: Path, tmp_path: Path) -> None:
    socket = tmp_path / "sock"
    add_program(programs, "systemctl", SYSTEMCTL.format(socket=socket, state="inactive"))
    ctl = Ctl(("--socket", str(socket)), str(programs))
    assert ctl.ok("status", "--no-wake").startswith(b"asleep")
    assert json.loads(ctl.ok("status", "--no-wake", "--json")) == {"asleep": True}


def test_no_wake_asks_a_daemon_that_is_awake(
    shared_daemon: HandStarted, shared_ctl: Ctl, programs: Path
) -> None:
    add_program(programs, "systemctl", SYSTEMCTL.format(socket=shared_daemon.socket, state="active"))
    status = json.loads(shared_ctl.ok("status", "--no-wake", "--json"))
    assert status["asleep"] is False
    assert status["daemon"]["engine"] == "hibari"


def test_no_wake_knows_the_addresses_of_tcp_sockets(programs: Path) -> None:
    add_program(programs, "systemctl", SYSTEMCTL.format(socket="[::1]:7860", state="inactive"))
    ctl = Ctl(("--url", "http://localhost:7860"), str(programs))
    assert ctl.ok("status", "--no-wake").startswith(b"asleep")


def test_an_instance_that_does_not_listen_is_no_reason_to_ask_another(programs: Path) -> None:
    add_program(programs, "systemctl", INSTANCES)
    done = Ctl(("--instance", "gpu7"), str(programs)).run("status")
    assert done.returncode == 2
    assert b"these listen: gpu1 (/run/stepaudiod-gpu1.sock)" in done.stderr


def test_an_instance_and_an_address_exclude_each_other(shared_daemon: HandStarted, programs: Path) -> None:
    done = Ctl(("--instance", "gpu7", "--socket", shared_daemon.socket), str(programs)).run("status")
    assert done.returncode == 2
    assert b"can't be used together" in done.stderr
    address = ("--socket", shared_daemon.socket)
    assert Ctl(address, str(programs), STEPAUDIOCTL_INSTANCE="gpu7").run("status").returncode == 0


@pytest.mark.parametrize(
    ("systemctl", "reason"),
    [
        (None, b"systemctl can't be run"),
        ("echo Failed to connect to bus >&2; exit 1", b"systemctl failed (Failed to connect to bus)"),
        (SYSTEMCTL.format(socket="/run/another.sock", state="active"), b"systemd has no such socket"),
    ],
)
def test_no_wake_fails_without_an_answer_from_systemd(
    shared_ctl: Ctl, programs: Path, systemctl: str | None, reason: bytes
) -> None:
    if systemctl is not None:
        add_program(programs, "systemctl", systemctl)
    done = shared_ctl.run("status", "--no-wake")
    assert done.returncode == 3
    assert reason in done.stderr


def test_a_full_disk_behind_standard_output_is_an_error(shared_ctl: Ctl) -> None:
    with open("/dev/full", "wb") as full:
        process = shared_ctl.start("status", stdout=full)
        _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 4
    assert error == b"stepaudioctl: Standard output could not be written: No space left on device.\n"


def test_voices_are_a_table(shared_ctl: Ctl) -> None:
    lines = shared_ctl.ok("voices").decode().splitlines()
    assert lines[0].split() == ["VOICE", "SPEAKS", "GENDER", "DESCRIPTION", "OPENAI", "NAMES"]
    assert lines[1].split()[:3] == ["heart", "en", "female"]


def test_voices_as_json_are_of_the_model(shared_ctl: Ctl) -> None:
    voices = json.loads(shared_ctl.ok("voices", "--model", "hibari", "--json"))
    assert [voice["id"] for voice in voices] == ["heart"]


def test_unload_frees_what_is_loaded(hand_started: HandStarted, ctl: Ctl) -> None:
    ctl.ok("say", "Hello.", "-")
    assert json.loads(ctl.ok("status", "--json"))["hibari"]["loaded"]
    assert ctl.ok("unload") == b"unloaded hibari\n"
    assert json.loads(ctl.ok("status", "--json"))["daemon"]["worker_pid"] is None
    assert ctl.ok("unload") == b"nothing was loaded\n"


def test_the_check_of_a_recording_is_no_model_to_unload(
    start_by_hand: StartByHand, programs: Path, tmp_path: Path
) -> None:
    daemon = start_by_hand(data_dir=tmp_path / "data")
    ctl = Ctl(("--socket", daemon.socket), str(programs))
    said = ctl.ok("say", "Hello.", "-o", "-")
    form = {"name": "Mei", "consent": "yes", "transcript": "Hello."}
    made = httpx.post(f"{daemon.url}/v1/audio/voices", data=form, files={"audio_sample": said})
    assert made.status_code == 200
    assert "probe" not in json.loads(ctl.ok("status", "--json"))
    assert ctl.ok("unload") == b"unloaded hibari\n"
    assert ctl.run("unload", "probe").returncode == 1


def test_unload_takes_a_name(hand_started: HandStarted, ctl: Ctl) -> None:
    assert json.loads(ctl.ok("unload", "hibari", "--json")) == {"unloaded": []}
    ctl.ok("say", "Hello.", "-")
    assert json.loads(ctl.ok("unload", "hibari", "--json")) == {"unloaded": ["hibari"]}
    ctl.ok("say", "Hello.", "-")
    assert json.loads(ctl.ok("unload", "tts-1", "--json")) == {"unloaded": ["hibari"]}


def test_unload_never_cuts_a_request_off(hand_started: HandStarted, ctl: Ctl) -> None:
    speaking = ctl.start("say", LONG_TEXT, "-o", "-")
    assert speaking.stdout is not None
    assert speaking.stdout.read(4) == b"RIFF"
    done = ctl.run("unload", "hibari", "--timeout", "2")
    assert done.returncode == 1
    assert b"is being served" in done.stderr
    assert speaking.poll() is None
    speaking.kill()
    speaking.communicate()
