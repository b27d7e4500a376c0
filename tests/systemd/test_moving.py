"""docs/moving.md, followed word by word where a container holds the port, and each way back.

The container is a service that listens at 0.0.0.0:7860; `docker` is a script that treats it as Docker does.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.systemd.conftest import CHECKOUT, UNITS, daemon_folders, install_daemon
from tests.systemd.machine import UNIX, Machine
from tests.systemd.root import PACKAGES, Unavailable, cached_root
from tests.systemd.test_access import ADD_ADDRESS, LAN
from tests.test_documents import blocks, text

pytestmark = pytest.mark.slow

OLD_MODELS = "/srv/step-audio/models"
MOVING, INSTALL = "docs/moving.md", "docs/install.md"
NAME = "step-audio-unified"
CONTAINER = """
[Service]
ExecStart=/usr/bin/python3 -m http.server --bind 0.0.0.0 7860
Restart=always
[Install]
WantedBy=multi-user.target
"""
DOCKER = f"""#!/bin/sh
case "$*" in
"ps --filter publish=7860") systemctl is-active {NAME} ;;
"update --restart=no {NAME}") systemctl disable {NAME} ;;
"update --restart=always {NAME}") systemctl enable {NAME} ;;
"stop {NAME}") systemctl stop {NAME} ;;
"start {NAME}") systemctl start {NAME} ;;
*) echo "docker: $*: not in this test" >&2; exit 1 ;;
esac
"""
DAEMONS = ("stepaudiod.service", "stepaudiod@page.service", "stepaudiod@api.service")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which the container runs, and on which the package has been installed beside it."""
    folders = daemon_folders()
    try:
        root = cached_root(packages=(*PACKAGES, "iproute2", "sudo"))
        with Machine.boot(root, read_only=folders) as machine:
            machine.run("python3", "-c", ADD_ADDRESS)
            machine.write("/etc/hosts", "127.0.0.1 localhost machine\n")  # for sudo
            machine.write("/usr/bin/docker", DOCKER, mode=0o755)
            machine.write(f"/etc/systemd/system/{NAME}.service", CONTAINER)
            machine.systemctl("daemon-reload")
            machine.systemctl("enable", "--now", f"{NAME}.service")
            machine.install_units(UNITS)
            install_daemon(machine, folders)
            machine.copy_in(UNITS / "ways", "/usr/share/stepaudiod/ways")
            machine.write("/etc/stepaudiod/stepaudiod.toml", 'engine = "hibari"\n')
            python = Path(sys.prefix).resolve() / "bin/python"
            machine.write(
                "/usr/bin/stepaudioctl",
                f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {python} -m stepaudiod.ctl "$@"\n',
                mode=0o755,
            )
            machine.wait_until(lambda: machine.listening_ports() == {7860}, "the container listens")
            yield machine
    except Unavailable as error:
        pytest.skip(f"no machine for the tests: {error}")


def commands(document: str, heading: str) -> list[str]:
    """The code blocks of a section."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text(document), re.M | re.S)
    assert section is not None, heading
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.M | re.S)


def set_up(way: str) -> str:
    """The block of docs/install.md that sets up a way: its file is installed, or its unit enabled."""
    return next(
        b.code for b in blocks(INSTALL) if f"/ways/{way}" in b.code or f"enable --now {way}" in b.code
    )


def way_back(name: str) -> str:
    """The block that follows the line of that way."""
    section = text(MOVING).partition("\n## The way back\n")[2].partition("\n## ")[0]
    found = re.search(rf"^[^\n]*{re.escape(name)}[^\n]*:\n\n```sh\n(.*?)^```$", section, re.M | re.S)
    assert found is not None, name
    return found[1]


def follow(machine: Machine, code: str, *, check: bool = True) -> str:
    """Run a block as an administrator types it."""
    return machine.run("sh", "-euc", code, check=check).stdout


def answers(machine: Machine, port: int, path: str = "/healthz", host: str = "", key: str = "") -> int:
    """The status of a request from this machine, or to a name of it from the network.

    -1 where another program answers, 0 where none does.
    """
    headers = {"Host": host or "localhost"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        at = (LAN[0] if host else "127.0.0.1", port)
        reply = machine.request("GET", path, headers=headers, at=at)
    except OSError:
        return 0
    return reply.status if "X-Request-Id" in reply.headers else -1


@pytest.fixture(scope="module")
def moved(old: Machine) -> Machine:
    """The machine after the first two chapters of the document."""
    look, stop = commands(MOVING, "Stop the container")
    assert answers(old, 7860) == -1
    assert "python3" in follow(old, look)
    old.systemctl("start", "stepaudiod.socket", check=False)
    assert old.show("stepaudiod.socket", "Result") != "success"
    follow(old, stop)
    assert old.listening_ports() == set()
    assert old.systemctl("is-enabled", NAME, check=False).strip() == "disabled"
    start, doctor = commands(MOVING, "Start stepaudiod")
    follow(old, start)
    assert "7860" in follow(old, doctor, check=False)
    return old


def test_after_the_first_steps_the_daemon_answers_at_the_containers_port(moved: Machine) -> None:
    is_default(moved)
    assert moved.systemctl("is-enabled", "stepaudiod.socket").strip() == "enabled"


def is_default(machine: Machine) -> None:
    """Check the ports, the page, the API and the unix socket of the default."""
    assert machine.listening_ports() == {7860}
    assert answers(machine, 7860, "/") == answers(machine, 7860, "/metrics") == 200
    assert machine.request("GET", "/healthz", at=str(UNIX)).status == 200
    assert answers(machine, 7860, host=LAN[0]) == 0


@pytest.mark.parametrize(
    ("way", "statuses"),
    [
        ("page-only.conf", {7860: (200, 404)}),
        ("api-only.conf", {8003: (404, 200)}),
        ("apart-page.conf", {7860: (200, 404), 8003: (404, 200)}),
        ("stepaudiod-api.socket", {7860: (200, 200), 8003: (404, 200)}),
        ("resident.toml", {7860: (200, 200)}),
    ],
)
def test_each_way_and_the_way_back(moved: Machine, way: str, statuses: dict[int, tuple[int, int]]) -> None:
    follow(moved, set_up(way))
    for port, expected in statuses.items():
        assert (answers(moved, port, "/"), answers(moved, port, "/metrics")) == expected, port
    assert moved.listening_ports() == set(statuses)
    if way == "resident.toml":
        moved.wait_until(lambda: is_resident(moved), "the daemon stays")
    follow(moved, way_back(way))
    is_default(moved)
    assert not is_resident(moved)


def is_resident(machine: Machine) -> bool:
    return machine.show("stepaudiod.service", "StatusText").startswith("awake for good")


def test_the_network_gets_in_with_a_key_as_docker_had_published_the_port(moved: Machine) -> None:
    at_7860, without_keys, at_8003 = commands(MOVING, "From the network")
    key = follow(moved, at_7860).split()[-1]
    name = moved.run("uname", "-n").stdout.strip()
    for host in (LAN[0], name, f"{name}.local"):
        assert answers(moved, 7860, "/v1/models", host) == 401
        assert answers(moved, 7860, "/v1/models", host, key) == answers(moved, 7860, "/", host, key) == 200
    assert answers(moved, 7860, "/v1/models", "evil.example", key) == 421
    assert answers(moved, 7860, "/v1/models") == 200
    follow(moved, at_8003)
    assert answers(moved, 8003, "/v1/models", name) == 401
    assert answers(moved, 8003, "/v1/models", name, key) == answers(moved, 8003, "/v1/models") == 200
    assert answers(moved, 8003, "/", name, key) == 404
    follow(moved, without_keys)
    assert answers(moved, 7860, "/v1/models", name) == answers(moved, 8003, "/v1/models", name) == 200
    follow(moved, way_back("stepaudiod-api.socket"))
    assert moved.listening_ports() == {7860}
    follow(moved, way_back("lan.conf"))
    is_default(moved)
    assert moved.run("stepaudioctl", "keys", "list").stdout.strip().endswith("has no keys")


def test_the_models_of_the_old_project_are_used_where_they_are(moved: Machine, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "models")
    moved.copy_in(tmp_path / "models", OLD_MODELS)
    moved.run("chmod", "-R", "a+rX", OLD_MODELS)
    assert "step-audio-editx" not in models(moved)
    (move,) = commands(MOVING, "The models")
    follow(moved, move)
    assert models(moved)[0] == "step-audio-editx"
    assert not moved.path("/var/lib/stepaudiod/models/Step-Audio-EditX").exists()
    follow(moved, way_back("models move"))
    assert "step-audio-editx" not in models(moved)
    assert moved.path(f"{OLD_MODELS}/Step-Audio-EditX").exists()
    is_default(moved)


def models(machine: Machine) -> list[str]:
    return [model["id"] for model in json.loads(machine.request("GET", "/v1/models").body)["data"]]


def test_every_way_file_has_its_way_back() -> None:
    for path in (UNITS / "ways").iterdir():
        assert way_back(path.name)


def test_the_way_back_to_the_container(moved: Machine) -> None:
    follow(moved, way_back("The container"))
    moved.wait_until(lambda: answers(moved, 7860) == -1, "the container answers")
    assert moved.systemctl("is-enabled", NAME).strip() == "enabled"
    assert moved.systemctl("is-enabled", "stepaudiod.socket", check=False).strip() == "disabled"
