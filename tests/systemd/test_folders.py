"""Folders that the daemon's user or its sandbox can't use, and models in another place."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepaudiod.obstacles import HOMES
from tests.checkpoints import write_checkpoint
from tests.systemd.conftest import CHECKOUT
from tests.systemd.machine import Machine
from tests.web.conftest import wav

SERVICE, SOCKET = "stepaudiod.service", "stepaudiod.socket"
DATA = "/var/lib/stepaudiod"
SITE = "/etc/stepaudiod/conf.d/site.toml"
TONE = wav(np.sin(np.arange(48_000, dtype=np.float32) / 20) / 4)
FORM = {"name": "Mei", "consent": "hers", "transcript": "Hello."}
BOUNDARY = "boundary"


@pytest.fixture
def sleeping(machine: Machine) -> Iterator[Machine]:
    """The machine with listening sockets and no daemon, and nothing of what a test stores or configures."""
    (command := machine.path("/usr/bin/stepaudioctl")).unlink(missing_ok=True)
    command.symlink_to(Path(sys.prefix).resolve() / "bin/stepaudioctl")
    machine.write("/etc/stepaudiod/stepaudiod.toml", "")
    machine.systemctl("start", SOCKET)
    yield machine
    machine.reset(SERVICE, SOCKET)
    for path in ("conf.d", "instances"):
        machine.remove(f"/etc/stepaudiod/{path}")
    for service in ("stepaudiod", "stepaudiod@"):
        machine.remove(f"/etc/systemd/system/{service}.service.d/models.conf")
    for path in (f"{DATA}/models", f"{DATA}/voices", "/srv/shut", "/srv/data", "/srv/models", "/home/shared"):
        machine.remove(path)
    machine.systemctl("daemon-reload")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest Step-Audio-EditX."""
    folder = tmp_path_factory.mktemp("checkpoint") / "models"
    write_checkpoint(folder)
    return folder


def ctl(machine: Machine, *arguments: str, status: int = 0) -> str:
    done = machine.run(
        "env", f"PYTHONPATH={CHECKOUT}", "stepaudioctl", *arguments, check=False, timeout_s=120
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def doctor(machine: Machine, user: str | None = None) -> dict[str, dict[str, str]]:
    """What is wrong, by subject."""
    command = ["env", f"PYTHONPATH={CHECKOUT}", "stepaudioctl", "doctor", "--json"]
    done = machine.run(*command, check=False, user=user)
    return {
        each["subject"]: each for each in json.loads(done.stdout)["findings"] if each["level"] == "problem"
    }


def ready(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.request("GET", "/readyz").body)
    return found


def upload(machine: Machine) -> tuple[int, str]:
    """Store a voice; the status and the message of an error."""
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in FORM.items()
    ]
    parts.append(b'Content-Disposition: form-data; name="audio_sample"; filename="a.wav"\r\n\r\n' + TONE)
    body = b"".join(f"--{BOUNDARY}\r\n".encode() + part + b"\r\n" for part in parts)
    body += f"--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    reply = machine.request("POST", "/v1/audio/voices", body, headers)
    return reply.status, json.loads(reply.body).get("error", {}).get("message", "")


def test_a_user_without_rights_gets_no_wrong_alarm(sleeping: Machine) -> None:
    assert not doctor(sleeping, user="nobody").keys() & {"data folder", "cache folder", "engine"}


def configure(machine: Machine, data: str) -> None:
    machine.write(SITE, f'data_dir = "{data}"\n')
    machine.systemctl("stop", SERVICE)


def test_a_folder_of_root_on_the_way_is_named_everywhere(sleeping: Machine) -> None:
    sleeping.run("install", "-d", "-m", "700", "/srv/shut")
    sleeping.run("install", "-d", "-o", "_stepaudio", "/srv/shut/data")
    configure(sleeping, "/srv/shut/data")
    stopped, mend = "user _stepaudio may not enter /srv/shut (mode 0700)", "sudo chmod o+x /srv/shut"
    found = doctor(sleeping)["data folder"]
    assert stopped in found["text"]
    assert found["advice"] == mend
    assert sleeping.show(SERVICE, "ActiveState") == "inactive"  # doctor wakes nothing
    mark = sleeping.journal.mark()
    answer = ready(sleeping)
    for text in (answer["why"], *answer["problems"], upload(sleeping)[1]):
        assert stopped in text
        assert mend in text
    sleeping.journal.wait_for(lambda entry: stopped in entry.get("MESSAGE", ""), since=mark)
    sleeping.run("chmod", "o+x", "/srv/shut")
    assert doctor(sleeping)["data folder"]["advice"] == "sudo stepaudioctl models move /srv/shut/data"


def test_a_voice_that_root_has_copied_is_named_and_not_called_damaged(sleeping: Machine) -> None:
    assert upload(sleeping) == (200, "")
    file = f"{DATA}/voices/mei/voice.json"
    sleeping.run("chown", "root:", file)
    sleeping.run("chmod", "600", file)
    mend = f"sudo chown _stepaudio: {file}"
    found = doctor(sleeping)["voices folder"]
    assert found["advice"] == mend
    answer = sleeping.request("GET", "/v1/audio/voices/mei").body.decode()
    assert mend in answer
    assert "damaged" not in answer


def test_a_link_that_systemd_does_not_take_is_mended_by_the_command_that_doctor_names(
    sleeping: Machine,
) -> None:
    sleeping.run("install", "-d", "-o", "_stepaudio", "-g", "_stepaudio", "/srv/data")
    sleeping.remove(DATA)
    sleeping.run("ln", "-s", "/srv/data", DATA)
    try:
        found = doctor(sleeping)[DATA]
        assert "is a link to /srv/data" in found["text"]
        sleeping.run("sh", "-ec", found["advice"].partition(", and")[0].replace("sudo ", ""))
        assert upload(sleeping) == (200, "")
        assert sleeping.path("/srv/data/voices").exists()
        assert not doctor(sleeping).keys() & {DATA, "data folder"}
    finally:
        sleeping.systemctl("stop", SERVICE)
        sleeping.run("umount", DATA, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(
            "/home/shared/data",
            "the unit's sandbox hides /home (ProtectHome=yes)",
            marks=pytest.mark.skipif(
                any(CHECKOUT.is_relative_to(folder) for folder in HOMES), reason="the checkout is shown there"
            ),
        ),
        ("/srv/data", "/srv/data is read-only (ProtectSystem=strict)"),
    ],
)
def test_a_data_folder_that_the_sandbox_keeps_away_is_mended_by_the_command_it_names(
    sleeping: Machine, data: str, problem: str
) -> None:
    sleeping.run("install", "-d", "/home/shared")
    configure(sleeping, data)
    found, mend = doctor(sleeping)["data folder"], f"sudo stepaudioctl models move {data}"
    assert (found["text"], found["advice"]) == (problem, mend)
    status, message = upload(sleeping)
    assert status == 503
    assert message.endswith(f"To mend it: {mend}")
    assert problem.partition(" (")[0].removeprefix("the ") in message
    ctl(sleeping, "models", "move", data)
    assert upload(sleeping) == (200, "")
    assert ready(sleeping)["problems"] == []
    assert "data folder" not in doctor(sleeping)
    assert "nothing had to be changed" in ctl(sleeping, "models", "move", data)


@pytest.mark.slow
def test_models_are_moved_to_another_disk_and_back(sleeping: Machine, checkpoint: Path) -> None:
    sleeping.copy_in(checkpoint, f"{DATA}/models")
    sleeping.run("chown", "-R", "_stepaudio:", f"{DATA}/models")
    sleeping.run("mkdir", "-p", "/srv/models")
    sleeping.run("mount", "-t", "tmpfs", "-o", "mode=755", "none", "/srv/models")
    try:
        assert upload(sleeping) == (200, "")
        assert ready(sleeping)["engine"] == "step-audio-editx"
        front = sleeping.main_process(SERVICE)
        assert "moved to /srv/models" in ctl(sleeping, "models", "move", "/srv/models")
        assert (
            sleeping.main_process(SERVICE) == front
        )  # reading needs no other sandbox, so it is only reloaded
        assert ready(sleeping)["engine"] == "step-audio-editx"
        assert not sleeping.path(f"{DATA}/models").exists()
        assert "/srv/models/Step-Audio-EditX" in ctl(sleeping, "models", "list")
        assert not doctor(sleeping).keys() & {"data folder", "models folder", "model files", "engine"}
        assert "moved to /home/shared/models" in ctl(sleeping, "models", "move", "/home/shared/models")
        assert ready(sleeping)["engine"] == "step-audio-editx"
        drop_in = sleeping.path("/etc/systemd/system/stepaudiod@.service.d/models.conf").read_text()
        assert "BindReadOnlyPaths=-/home/shared/models" in drop_in
        ctl(sleeping, "models", "move", f"{DATA}/models")
        assert ready(sleeping)["engine"] == "step-audio-editx"
        assert not sleeping.path("/etc/stepaudiod/conf.d/50-models.toml").exists()
        assert not sleeping.path("/etc/systemd/system/stepaudiod.service.d/models.conf").exists()
    finally:
        sleeping.run("umount", "/srv/models")


def test_an_unreadable_file_of_the_configuration_is_named(sleeping: Machine) -> None:
    sleeping.write(SITE, "idle_timeout = 300\n", mode=0o600)
    found = doctor(sleeping)["configuration"]
    assert (found["text"], found["advice"]) == (
        f"the user _stepaudio may not read {SITE} (mode 0600)",
        f"sudo chmod a+r {SITE}",
    )
    answer = sleeping.request("GET", "/readyz")
    assert answer.status == 503
    assert f"sudo chmod a+r {SITE}" in answer.body.decode()
