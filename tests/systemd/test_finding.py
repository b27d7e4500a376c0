"""`stepaudioctl` finds the daemon: instances in the daemon's place, and TCP for users outside the group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import CHECKOUT, UNITS, daemon_folders, install_daemon
from tests.systemd.machine import Machine
from tests.systemd.root import PACKAGES, Unavailable, cached_root

pytestmark = pytest.mark.slow

WAYS = UNITS / "ways"
CTL = (
    "env",
    f"PYTHONPATH={CHECKOUT}",
    str(Path(sys.prefix).resolve() / "bin/python"),
    "-m",
    "stepaudiod.ctl",
)
USER = "reader"
APART = ("stepaudiod@page", "stepaudiod@api")


@pytest.fixture(scope="module")
def desktop() -> Iterator[Machine]:
    """A machine with D-Bus, by which other users than root ask systemd, and such a user."""
    try:
        folders = daemon_folders()
        with Machine.boot(cached_root(packages=(*PACKAGES, "dbus")), read_only=folders) as booted:
            booted.install_units(UNITS)
            install_daemon(booted, folders)
            booted.write("/etc/stepaudiod/stepaudiod.toml", 'engine = "hibari"\n')
            for name in ("page", "api", "gpu1", "gpu2"):
                booted.write(f"/etc/stepaudiod/instances/{name}.toml", 'engine = "hibari"\n')
            booted.run("useradd", "--create-home", USER)
            yield booted
    except Unavailable as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"no machine for the tests, and in continuous integration there must be one: {error}")
        pytest.skip(f"no machine for the tests: {error}")


@pytest.fixture
def apart(desktop: Machine) -> Iterator[Machine]:
    """Page and API apart, as docs/install.md says."""
    for unit in APART:
        desktop.drop_in(f"{unit}.socket", (WAYS / f"apart-{unit.partition('@')[2]}.conf").read_text())
    desktop.systemctl("start", *(f"{unit}.socket" for unit in APART))
    yield desktop
    desktop.reset(*(f"{unit}.{kind}" for unit in APART for kind in ("service", "socket")))


@pytest.fixture
def gpus(desktop: Machine) -> Iterator[Machine]:
    """Two instances that both serve the API; only the second has a port."""
    desktop.drop_in("stepaudiod@gpu2.socket", "[Socket]\nListenStream=0.0.0.0:7862\n")
    units = ("stepaudiod@gpu1", "stepaudiod@gpu2")
    desktop.systemctl("start", *(f"{unit}.socket" for unit in units))
    yield desktop
    desktop.reset(*(f"{unit}.{kind}" for unit in units for kind in ("service", "socket")))


@pytest.fixture
def default(desktop: Machine) -> Iterator[Machine]:
    desktop.systemctl("start", "stepaudiod.socket")
    yield desktop
    desktop.reset("stepaudiod.socket", "stepaudiod.service")


def ctl(
    machine: Machine, *arguments: str, user: str | None = None, environ: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return machine.run("env", *environ, *CTL, *arguments, user=user, check=False)


@pytest.mark.parametrize("user", [None, USER])
def test_the_instance_with_the_api_speaks(apart: Machine, user: str | None) -> None:
    done = ctl(apart, "say", "Here I am.", "-o", "/tmp/said.wav", user=user)
    assert done.returncode == 0, done.stderr
    assert (
        "stepaudiod.socket is off; the instance api is used; for another one (page): --instance NAME"
        in done.stderr
    )
    assert apart.path("/tmp/said.wav").stat().st_size > 2_000
    apart.remove("/tmp/said.wav")
    assert apart.show("stepaudiod@api.service", "ActiveState") == "active"
    assert apart.show("stepaudiod@page.service", "ActiveState") == "inactive"


@pytest.mark.parametrize("user", [None, USER])
@pytest.mark.parametrize("how", ["option", "variable"])
def test_an_instance_can_be_named(apart: Machine, user: str | None, how: str) -> None:
    named = ("--instance", "page") if how == "option" else ()
    done = ctl(
        apart, "status", *named, user=user, environ=("STEPAUDIOCTL_INSTANCE=page",) * (how == "variable")
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert apart.show("stepaudiod@page.service", "ActiveState") == "active"
    assert apart.show("stepaudiod@api.service", "ActiveState") == "inactive"


def test_an_instance_that_does_not_listen_is_an_error_that_lists_those_that_do(apart: Machine) -> None:
    done = ctl(apart, "status", "--instance", "gpu7")
    assert done.returncode == 2
    assert "The instance gpu7 doesn't listen" in done.stderr
    assert "these listen: api (/run/stepaudiod-api.sock, 127.0.0.1:8003, [::1]:8003), page (" in done.stderr
    assert "systemctl enable --now stepaudiod@gpu7.socket" in done.stderr


def test_no_wake_and_doctor_wake_no_instance(apart: Machine) -> None:
    for user in (None, USER):
        done = ctl(apart, "status", "--no-wake", "--json", user=user)
        assert json.loads(done.stdout) == {"asleep": True}, done.stderr
        assert "Traceback" not in ctl(apart, "doctor", user=user).stderr
    for unit in APART:
        assert apart.show(f"{unit}.service", "ActiveState") == "inactive"


@pytest.mark.parametrize("user", [None, USER])
def test_one_of_several_instances_has_to_be_named(gpus: Machine, user: str | None) -> None:
    done = ctl(gpus, "voices", user=user)
    assert done.returncode == 2
    assert "--instance NAME or $STEPAUDIOCTL_INSTANCE" in done.stderr
    assert "gpu1 (/run/stepaudiod-gpu1.sock), gpu2 (" in done.stderr
    assert ctl(gpus, "voices", "--instance", "gpu2").returncode == 0


def test_a_user_outside_the_group_needs_a_port_of_the_instance(gpus: Machine) -> None:
    done = ctl(gpus, "voices", "--instance", "gpu1", user=USER)
    assert done.returncode == 3
    assert "You may not use /run/stepaudiod-gpu1.sock; members of the group _stepaudio may" in done.stderr
    done = ctl(gpus, "status", "--instance", "gpu2", "--no-wake", user=USER)
    assert (done.returncode, done.stdout) == (0, "asleep: nothing runs until a client connects\n"), (
        done.stderr
    )


def test_an_instance_that_only_the_group_may_use_is_named(gpus: Machine) -> None:
    gpus.systemctl("stop", "stepaudiod@gpu2.socket")
    done = ctl(gpus, "voices", user=USER)
    assert done.returncode == 3
    assert "You may not use /run/stepaudiod-gpu1.sock; members of the group _stepaudio may" in done.stderr


def test_an_instance_with_an_escaped_name_is_found(desktop: Machine) -> None:
    name = "second\\x2dgpu"
    desktop.copy_in(
        desktop.path("/etc/stepaudiod/instances/gpu1.toml"), f"/etc/stepaudiod/instances/{name}.toml"
    )
    desktop.systemctl("start", f"stepaudiod@{name}.socket")
    try:
        done = ctl(desktop, "voices")
        assert done.returncode == 0, done.stderr
        done = ctl(desktop, "status", "--json", "--instance", name)
        assert done.returncode == 0, done.stderr
    finally:
        desktop.reset(f"stepaudiod@{name}.service", f"stepaudiod@{name}.socket")


def test_a_user_outside_the_group_is_served_over_tcp(default: Machine) -> None:
    done = ctl(default, "voices", user=USER)
    assert (done.returncode, done.stderr) == (0, "")
    done = ctl(default, "doctor", "--json", user=USER)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)["findings"]
    (socket,) = [each for each in found if each["subject"] == "/run/stepaudiod.sock"]
    assert socket["level"] == "ok"
    assert "http://127.0.0.1:7860" in socket["text"]


def test_a_user_outside_the_group_is_served_without_an_answer_of_systemd(default: Machine) -> None:
    default.systemctl("mask", "--runtime", "dbus.socket", "dbus.service")
    default.systemctl("stop", "dbus.socket", "dbus.service", check=False)
    try:
        assert default.run("systemctl", "list-units", user=USER, check=False).returncode != 0
        assert ctl(default, "voices", user=USER).returncode == 0
    finally:
        default.systemctl("unmask", "--runtime", "dbus.socket", "dbus.service")
        default.systemctl("start", "dbus.socket")


def test_a_daemon_with_ports_alone_is_found(default: Machine) -> None:
    default.drop_in("stepaudiod.socket", "[Socket]\nListenStream=\nListenStream=0.0.0.0:7870\n")
    default.systemctl("restart", "stepaudiod.socket")
    done = ctl(default, "status", "--no-wake", "--json")
    assert json.loads(done.stdout) == {"asleep": True}, done.stderr
