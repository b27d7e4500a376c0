"""A real speech-dispatcher speaks through the daemon, to a file instead of a sound card."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages.repository import Repository
from tests.packages.steps import SERVICE, install
from tests.systemd.machine import Machine

DESKTOP = ("alsa-utils", "speech-dispatcher")
HEARD = "/run/heard.wav"

# ALSA's own plugin that writes down what is played.
ASOUND = f"""
pcm.!default {{
  type file
  slave.pcm "null"
  file "{HEARD}"
  format "wav"
}}
"""


@pytest.fixture(scope="module")
def desktop(machine: Machine, repository: Repository, debian: Path) -> Iterator[Machine]:
    """The machine with the packages and a speech-dispatcher, without a sound card."""
    repository.add_debian(debian, *DESKTOP)
    machine.run("apt-get", "update")
    install(machine, "stepaudiod", *DESKTOP, timeout_s=240)
    machine.write("/etc/asound.conf", ASOUND)
    # A desktop has a sound server; this machine has not.
    settings = machine.path("/etc/speech-dispatcher/speechd.conf")
    settings.write_text(settings.read_text() + '\nAudioOutputMethod "alsa"\n')
    machine.write("/etc/stepaudiod/conf.d/90-test.toml", "idle_timeout = 2\n")
    yield machine
    machine.remove("/etc/stepaudiod/conf.d/90-test.toml")


def spd_say(machine: Machine, *arguments: str) -> float:
    """Speak, wait for the end, and return the seconds of audio."""
    machine.remove(HEARD)
    machine.run("spd-say", "--wait", "--output-module", "stepaudiod-generic", *arguments)
    with wave.open(str(machine.path(HEARD))) as heard:
        frames = machine.path(HEARD).stat().st_size // (heard.getnchannels() * heard.getsampwidth())
        return float(frames / heard.getframerate())


def test_speech_dispatcher_finds_the_module_by_itself(desktop: Machine) -> None:
    assert "stepaudiod-generic" in desktop.run("spd-say", "--list-output-modules").stdout


def test_spd_say_plays_audio_and_the_daemon_sleeps_again(desktop: Machine) -> None:
    assert spd_say(desktop, "Screen readers speak through the daemon.") > 1.5
    desktop.wait_for_state(SERVICE, "inactive")


def test_the_rate_is_followed(desktop: Machine) -> None:
    text = "One, two, three, four, five, six."
    slow, fast = spd_say(desktop, "--rate", "-40", text), spd_say(desktop, "--rate", "60", text)
    assert slow > 1.5 * fast


def test_chinese_is_spoken_too(desktop: Machine) -> None:
    assert spd_say(desktop, "--language", "zh", "你好，世界。") > 0.8
