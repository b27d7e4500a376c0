"""An account with the name of earlier versions, stepaudio, is renamed by the installation."""

from __future__ import annotations

from tests.packages.repository import Repository
from tests.systemd.machine import Machine

VOICE = "/var/lib/stepaudiod/voices/mine/voice.wav"
OLD_DROP_IN = "/etc/systemd/system/stepaudiod@old.socket.d/group.conf"


def test_an_old_account_keeps_its_numbers_files_and_members(machine: Machine, repository: Repository) -> None:
    machine.run("groupadd", "--system", "stepaudio")
    machine.run("useradd", "--system", "-g", "stepaudio", "-d", "/var/lib/stepaudiod", "stepaudio")
    machine.run("useradd", "--create-home", "ann")
    machine.run("usermod", "--append", "--groups", "stepaudio", "ann")
    machine.run("install", "-D", "-o", "stepaudio", "-g", "stepaudio", "/dev/null", VOICE)
    machine.write(OLD_DROP_IN, "[Socket]\nSocketGroup=stepaudio\n")
    ids = machine.run("id", "stepaudio").stdout.replace("stepaudio", "_stepaudio")
    # a process of the user, as a daemon that waits for the upgrade
    machine.run("systemd-run", "--uid=stepaudio", "--unit=waiting", "sleep", "infinity")

    done = machine.run("apt-get", "install", "--yes", "stepaudiod", timeout_s=120)

    assert machine.show("waiting.service", "ActiveState") == "active"
    machine.systemctl("stop", "waiting.service")
    assert ids.split()[:2] == machine.run("id", "_stepaudio").stdout.split()[:2]
    assert machine.run("getent", "passwd", "stepaudio", check=False).stdout == ""
    assert machine.run("stat", "--format=%U:%G", VOICE).stdout == "_stepaudio:_stepaudio\n"
    assert f"Change stepaudio in {OLD_DROP_IN}" in done.stdout + done.stderr
    machine.run("stepaudioctl", "say", "It is the same account.", "-o", "/tmp/hello.wav", user="ann")
    assert machine.path("/tmp/hello.wav").stat().st_size > 20_000


def test_a_person_of_that_name_keeps_the_account(machine: Machine) -> None:
    machine.run("useradd", "--create-home", "stepaudio")

    machine.run("dpkg-reconfigure", "stepaudiod")

    assert machine.run("stat", "--format=%U", "/home/stepaudio").stdout == "stepaudio\n"
    assert machine.run("stat", "--format=%U", VOICE).stdout == "_stepaudio\n"
