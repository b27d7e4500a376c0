"""doctor: its findings as text and as JSON; it doesn't wake the daemon."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepaudiod.config import Settings
from stepaudiod.ctl.checks.disk import folder_findings
from stepaudiod.ctl.checks.engines import Models, engine_finding, read_configuration
from stepaudiod.ctl.checks.finding import Finding
from stepaudiod.ctl.checks.permissions import Account
from stepaudiod.ctl.checks.sandbox import Seen
from stepaudiod.editx.checkpoint.layout import MODEL_FOLDER
from stepaudiod.obstacles import Own
from tests.checkpoints import write_checkpoint
from tests.ctl.conftest import Ctl, HandStarted, add_program

OTHER = Account("other", 4242, 4242, frozenset({4242}))

UNITS = """\
case "$*" in
*list-units*) echo "stepaudiod.socket loaded {socket} listening sockets" ;;
*) cat <<END
Id=stepaudiod.service
LoadState=loaded
ActiveState={service}
SubState={sub}
MainPID=17
Environment=XDG_CACHE_HOME=/var/cache/stepaudiod {environment}

Id=stepaudiod.socket
LoadState=loaded
ActiveState={socket}
Result=trigger-limit-hit
UnitFileState={enabled}
Triggers=stepaudiod.service
Listen=127.0.0.1:7860 (Stream)
Listen={path} (Stream)
END
;;
esac"""


def systemctl(programs: Path, path: object, **properties: str) -> None:
    """A systemctl that reports these properties."""
    usual = {
        "service": "inactive",
        "sub": "dead",
        "socket": "active",
        "enabled": "enabled",
        "environment": "",
    }
    add_program(programs, "systemctl", UNITS.format(path=path, **(usual | properties)))


@pytest.fixture
def silent_socket(tmp_path: Path) -> Iterator[Path]:
    """A listening socket that never accepts; a connection to it fails the test."""
    path = tmp_path / "listening.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        yield path
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.fixture
def ctl(silent_socket: Path, programs: Path) -> Ctl:
    return Ctl(("--socket", str(silent_socket)), str(programs))


def findings(ctl: Ctl, *arguments: str) -> dict[str, Finding]:
    """The findings by their subjects."""
    return by_subject(report(ctl, *arguments)["findings"])


def report(ctl: Ctl, *arguments: str) -> dict[str, Any]:
    done = ctl.run("doctor", "--json", *arguments)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == found["is_well"], done.stderr
    return found


def by_subject(found: list[dict[str, str]]) -> dict[str, Finding]:
    return {f["subject"]: Finding(**f) for f in found}  # type: ignore[arg-type]


def test_a_sleeping_daemon_is_checked_without_a_connection(
    ctl: Ctl, silent_socket: Path, programs: Path
) -> None:
    systemctl(programs, silent_socket)
    found = findings(ctl)
    assert found["stepaudiod.socket"].text == f"listens on 127.0.0.1:7860, {silent_socket}"
    assert found["stepaudiod.service"].text.startswith("asleep")
    assert found[str(silent_socket)] == Finding(str(silent_socket), "ok", "you may use it")


def test_the_report_is_for_people_and_the_exit_code_for_scripts(
    ctl: Ctl, silent_socket: Path, programs: Path
) -> None:
    systemctl(programs, silent_socket, socket="failed")
    done = ctl.run("doctor")
    assert done.returncode == 6
    assert b"WRONG  stepaudiod.socket" in done.stdout
    assert "→ journalctl -u stepaudiod.socket says why" in done.stdout.decode()
    assert b"marked WRONG" in done.stderr


def test_without_systemd_the_other_checks_are_made(ctl: Ctl) -> None:
    found = findings(ctl)
    assert found["systemd"].level == "unknown"
    assert found["engine"].level == "ok"


@pytest.mark.parametrize(
    ("properties", "subject", "level", "text"),
    [
        ({"socket": "inactive"}, "stepaudiod.socket", "problem", "nothing listens"),
        ({"socket": "failed"}, "stepaudiod.socket", "problem", "trigger-limit-hit"),
        ({"enabled": "disabled"}, "stepaudiod.socket", "note", "after a reboot"),
        ({"service": "failed"}, "stepaudiod.service", "problem", "it failed"),
        (
            {"service": "activating", "sub": "auto-restart"},
            "stepaudiod.service",
            "problem",
            "again and again",
        ),
        ({"service": "activating", "sub": "start-pre"}, "stepaudiod.service", "note", "an upgrade"),
    ],
)
def test_units_that_are_not_well(
    ctl: Ctl,
    silent_socket: Path,
    programs: Path,
    properties: dict[str, str],
    subject: str,
    level: str,
    text: str,
) -> None:
    systemctl(programs, silent_socket, **properties)
    all_of_it = report(ctl)["findings"]
    assert [f for f in all_of_it if f["subject"] == subject and f["level"] == level and text in f["text"]]


def test_a_daemon_that_is_awake_is_asked(shared_ctl: Ctl, shared_daemon: HandStarted, programs: Path) -> None:
    systemctl(programs, shared_daemon.socket, service="active", sub="running")
    found = findings(shared_ctl)
    assert "engine hibari" in found["daemon"].text


APART = """\
case "$*" in
*list-units*) echo "stepaudiod@page.socket loaded active listening sockets" ;;
*@page.service*) cat <<END
Id=stepaudiod@page.service
LoadState=loaded
ActiveState={page}
SubState=dead
Environment=STEPAUDIOD_ENGINE=hibari

Id=stepaudiod@page.socket
LoadState=loaded
ActiveState=active
UnitFileState=enabled
Triggers=stepaudiod@page.service
Listen=/run/stepaudiod-page.sock (Stream)
END
;;
*) cat <<END
Id=stepaudiod.service
LoadState=loaded
ActiveState=inactive
SubState=dead

Id=stepaudiod.socket
LoadState=loaded
ActiveState=inactive
UnitFileState={enabled}
Triggers=stepaudiod.service

Id=stepaudiod@page.socket
LoadState=loaded
ActiveState=active
UnitFileState=enabled
Triggers=stepaudiod@page.service
END
;;
esac"""


def test_instances_that_listen_instead_of_the_daemon_are_checked(ctl: Ctl, programs: Path) -> None:
    add_program(programs, "systemctl", APART.format(enabled="disabled", page="inactive"))
    found = findings(Ctl((), ctl.path))
    assert found["stepaudiod.socket"].level == "note"
    assert "these instances take its place: page" in found["stepaudiod.socket"].text
    assert found["page: stepaudiod@page.socket"].level == "ok"
    assert found["page: /run/stepaudiod-page.sock"].advice.startswith(
        "systemctl enable --now stepaudiod@page.socket"
    )
    assert "page.toml: there is no such file" in found["page: configuration"].text


def test_an_enabled_daemon_that_does_not_listen_is_a_problem_despite_instances(
    ctl: Ctl, programs: Path
) -> None:
    add_program(programs, "systemctl", APART.format(enabled="enabled", page="inactive"))
    assert "can't wake the daemon" in findings(ctl)["stepaudiod.socket"].text


def test_only_the_instance_itself_is_asked(ctl: Ctl, silent_socket: Path, programs: Path) -> None:
    add_program(programs, "systemctl", APART.format(enabled="enabled", page="active"))
    found = findings(Ctl((), ctl.path), "--instance", "page", "--config", os.devnull)
    assert "doesn't answer here" in found["daemon"].text
    assert "/run/stepaudiod-page.sock" in found["daemon"].text


def test_the_units_environment_is_part_of_the_configuration(
    ctl: Ctl, silent_socket: Path, programs: Path
) -> None:
    systemctl(programs, silent_socket, environment="STEPAUDIOD_ENGINE=hibari")
    assert findings(ctl)["engine"].text.startswith('"hibari" selects hibari')
    systemctl(programs, silent_socket, environment="STEPAUDIOD_IDLE_TIMEOUT=soon")
    found = findings(ctl)["configuration"]
    assert found.level == "problem"
    assert "STEPAUDIOD_IDLE_TIMEOUT: idle_timeout" in found.text


def test_a_broken_file_is_named(ctl: Ctl, tmp_path: Path) -> None:
    broken = tmp_path / "stepaudiod.toml"
    broken.write_text("idle_timout = 5\n")
    found = findings(ctl, "--config", str(broken))["configuration"]
    assert found.level == "problem"
    assert f"{broken}: idle_timout: there is no such key" in found.text


def test_the_engine_that_auto_selects_is_shown_with_the_reason(ctl: Ctl) -> None:
    text = findings(ctl)["engine"].text
    assert text.startswith(
        '"auto" selects kokoro: the best that is installed; step-audio-editx can\'t be used'
    )


def test_a_socket_without_a_listener_is_a_problem(tmp_path: Path, programs: Path) -> None:
    path = tmp_path / "left-over.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    found = findings(Ctl(("--socket", str(path)), str(programs)))[str(path)]
    assert (found.level, found.advice) == ("problem", "systemctl restart stepaudiod.socket")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A world-readable folder, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_permissions_the_result_is_unknown(open_folder: Path) -> None:
    path, hidden = open_folder / "sock", open_folder / "data"
    (hidden / "models").mkdir(parents=True)
    hidden.chmod(0o700)
    as_other_user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    command = [
        *as_other_user,
        sys.executable,
        "-m",
        "stepaudiod.ctl",
        "doctor",
        "--json",
        "--socket",
        str(path),
    ]
    environ = os.environ | {"STEPAUDIOD_DATA_DIR": str(hidden), "HOME": str(open_folder)}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o660)
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    found = by_subject(json.loads(done.stdout)["findings"])
    assert found[str(path)].level == "problem"
    assert "usermod -aG" in found[str(path)].advice
    assert found["model files"].level == "unknown"
    assert found["engine"].level == "note"


def test_an_incomplete_model_is_a_problem(tmp_path: Path) -> None:
    models = Models(Settings(data_dir=tmp_path), Own())
    assert next(models.findings()).level == "note"
    folder = tmp_path / "models" / MODEL_FOLDER
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"cut")
    found = list(models.findings())
    assert {f.level for f in found} == {"problem"}
    assert any("config.json is missing" in f.text for f in found)
    assert not models.is_complete
    assert "kokoro" in engine_finding(models).text


def test_an_engine_that_cannot_serve_is_a_problem(tmp_path: Path) -> None:
    found = engine_finding(Models(Settings(engine="step-audio-editx", data_dir=tmp_path), Own()))
    assert found.level == "problem"
    assert "models pull step-audio-editx" in found.text


def test_a_folder_that_the_daemon_may_not_write_to(open_folder: Path) -> None:
    settings = Settings(data_dir=open_folder, cache_dir=open_folder)
    found, *_ = folder_findings(settings, Seen(OTHER), 0)
    assert (found.level, found.subject) == ("problem", "data folder")
    assert found.text == f"the user other may not write to {open_folder} (mode 0755)"
    assert found.advice == f"sudo chown -R other: {open_folder}"
    open_folder.chmod(0o777)
    found, *_ = folder_findings(settings, Seen(OTHER), 0)
    assert found.level == "ok"


def test_a_file_in_the_place_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    found, *_ = folder_findings(Settings(data_dir=tmp_path / "data", cache_dir=tmp_path), Own(), 0)
    assert (found.level, found.text) == ("problem", f"{tmp_path / 'data'} isn't a folder")
    for name in ("models", "voices"):
        (tmp_path / name).write_text("mine")
        assert f"{tmp_path / name} isn't a folder" in [
            f.text for f in Models(Settings(data_dir=tmp_path), Own()).findings() if f.level == "problem"
        ]


def test_too_little_space_for_the_model_is_noted(tmp_path: Path) -> None:
    found, *_ = folder_findings(Settings(data_dir=tmp_path, cache_dir=tmp_path), Own(), 10**18)
    assert (found.level, found.subject) == ("note", "data folder")
    apart = Settings(data_dir=tmp_path, cache_dir=tmp_path, models_dir=tmp_path / "models")
    levels = {found.subject: found.level for found in folder_findings(apart, Own(), 10**18)}
    assert levels == {"data folder": "ok", "models folder": "note", "cache folder": "ok"}


def test_models_that_the_daemon_may_not_read_are_not_chosen(open_folder: Path) -> None:
    """The folder of root that stops the daemon is named, also where the current user is root."""
    data = open_folder / "shut" / "data"
    write_checkpoint(data / "models")
    data.parent.chmod(0o700)
    models = Models(Settings(data_dir=data, engine="step-audio-editx"), Seen(OTHER))
    stopped = f"the user other may not enter {data.parent} (mode 0700)"
    assert stopped in engine_finding(models).text[:200].replace("The user", "the user")
    found, *_ = folder_findings(Settings(data_dir=data, cache_dir=open_folder), Seen(OTHER), 0)
    assert (found.text, found.advice) == (stopped, f"sudo chmod o+x {data.parent}")


def test_a_file_of_the_configuration_that_the_daemon_may_not_read(open_folder: Path) -> None:
    main, drop_in = open_folder / "stepaudiod.toml", open_folder / "conf.d" / "site.toml"
    drop_in.parent.mkdir()
    for path in (main, drop_in):
        path.touch(0o644)
    drop_in.chmod(0o600)
    _, (found,) = read_configuration(main, {}, Seen(OTHER))
    assert (found.level, found.text) == ("problem", f"the user other may not read {drop_in} (mode 0600)")
    assert found.advice == f"sudo chmod a+r {drop_in}"
    drop_in.chmod(0o644)
    _, (found,) = read_configuration(main, {}, Seen(OTHER))
    assert found.level == "ok"


def test_without_units_the_process_at_a_configured_address_is_named(ctl: Ctl, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        config = tmp_path / "stepaudiod.toml"
        config.write_text(f'[listen]\nhttp = ["{address}"]\n')
        found = findings(ctl, "--config", str(config))[address]
    assert found.level == "note"
    assert f"(process {os.getpid()}, user " in found.text
    assert "LISTEN=" in found.advice
