"""The ways to deploy, as in docs/install.md and docs/moving.md: ports, processes, models and memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.systemd.conftest import UNITS
from tests.systemd.machine import Machine
from tests.systemd.network import Address

pytestmark = pytest.mark.slow

WAYS = UNITS / "ways"
PAGE: Address = ("127.0.0.1", 7860)
API: Address = ("127.0.0.1", 8003)
SPEECH = json.dumps({"model": "hibari", "voice": "heart", "input": "Here I am."}).encode()


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Attributes:
        drop_ins: a file of `ways/` for a socket unit.
        instances: the daemons.
        page: where the page is; None where there is none.
        api: where the API is.
        ports: all that is listened on.
    """

    drop_ins: dict[str, str]
    instances: tuple[str, ...]
    page: Address | None
    api: Address
    ports: set[int]


UNIFIED = Way({}, ("stepaudiod",), PAGE, PAGE, {7860})
PAGE_ONLY = Way({"stepaudiod.socket": "page-only.conf"}, ("stepaudiod",), PAGE, PAGE, {7860})
API_ONLY = Way({"stepaudiod.socket": "api-only.conf"}, ("stepaudiod",), None, API, {8003})
APART = Way(
    {"stepaudiod@page.socket": "apart-page.conf", "stepaudiod@api.socket": "apart-api.conf"},
    ("stepaudiod@page", "stepaudiod@api"),
    PAGE,
    API,
    {7860, 8003},
)
ALL = {"unified": UNIFIED, "page only": PAGE_ONLY, "API only": API_ONLY, "apart": APART}


@dataclass(frozen=True)
class Running:
    """A machine that runs one of the ways."""

    machine: Machine
    way: Way

    def configure(self, **settings: object) -> None:
        lines = {"engine": '"hibari"', **settings}
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        for instance in self.way.instances:
            name = instance.partition("@")[2]
            path = f"instances/{name}.toml" if name else "stepaudiod.toml"
            self.machine.write(f"/etc/stepaudiod/{path}", text)

    def processes(self) -> int:
        return sum(len(self.machine.processes(f"{each}.service")) for each in self.way.instances)

    def memory_bytes(self) -> int:
        """Resident memory of all processes, with shared pages counted once."""
        pids = [pid for each in self.way.instances for pid in self.machine.processes(f"{each}.service")]
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
        return sum(
            int(kilobytes) << 10 for text in texts for kilobytes in re.findall(r"(?m)^Pss: +(\d+)", text)
        )

    def speak(self, at: Address) -> None:
        reply = self.machine.request("POST", "/v1/audio/speech", SPEECH, at=at, timeout_s=60)
        assert reply.status == 200
        assert len(reply.body) > 2_000


@pytest.fixture(params=list(ALL.values()), ids=list(ALL))
def running(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Running]:
    """The sockets of one way, without a daemon."""
    way: Way = request.param
    for unit, name in way.drop_ins.items():
        machine.drop_in(unit, (WAYS / name).read_text())
    run = Running(machine, way)
    run.configure(idle_timeout=300)
    machine.systemctl("start", *(f"{each}.socket" for each in way.instances))
    yield run
    machine.reset(*(f"{each}.{kind}" for each in way.instances for kind in ("service", "socket")))


def test_asleep_there_are_sockets_and_nothing_else(running: Running) -> None:
    assert running.machine.listening_ports() == running.way.ports
    assert running.processes() == 0
    assert running.memory_bytes() == 0


def test_a_status_request_wakes_one_process_and_no_model(running: Running) -> None:
    assert running.machine.request("GET", "/healthz", at=running.way.api).status == 200
    assert running.processes() == 1
    assert running.memory_bytes() < 100_000_000
    print(f"front: {running.memory_bytes() / 1e6:.0f} MB")


def test_speech_loads_one_model_for_each_daemon_that_works(running: Running) -> None:
    way = running.way
    addresses = [way.api] if way.page in (None, way.api) else [way.api, way.page]
    for number, at in enumerate([a for a in addresses if a is not None], 1):
        running.speak(at)
        assert running.processes() == 2 * number, "a front and a worker each"
    assert running.memory_bytes() > 100_000_000 * len(way.instances)
    print(f"awake: {running.memory_bytes() / 1e6:.0f} MB")


def test_the_page_is_where_the_way_says(running: Running) -> None:
    if running.way.page is not None:
        assert running.machine.request("GET", "/", at=running.way.page).status == 200
    if running.way.api != running.way.page:
        assert running.machine.request("GET", "/", at=running.way.api).status == 404


def test_after_the_idle_exit_nothing_runs(running: Running) -> None:
    running.configure(idle_timeout=0.5)
    running.speak(running.way.api)
    for instance in running.way.instances:
        running.machine.wait_for_state(f"{instance}.service", "inactive")
    assert running.processes() == 0
    assert running.memory_bytes() == 0
    assert running.machine.listening_ports() == running.way.ports


def test_resident_it_loads_its_model_and_keeps_it(running: Running) -> None:
    lines = [line for line in (WAYS / "resident.toml").read_text().splitlines() if line[:1] not in ("", "#")]
    running.configure(**{key: value for key, _, value in (line.partition(" = ") for line in lines)})
    assert running.machine.request("GET", "/healthz", at=running.way.api).status == 200
    answering = running.way.instances[-1]
    running.machine.wait_until(lambda: running.processes() == 2, "a question was enough to load the model")
    running.machine.wait_until(
        lambda: running.machine.show(f"{answering}.service", "StatusText").startswith("awake for good"),
        "it says that it stays",
    )
    running.speak(running.way.api)
    assert running.processes() == 2


def test_a_service_that_is_enabled_is_awake_from_boot_on(machine: Machine) -> None:
    machine.systemctl("enable", "stepaudiod.service")
    try:
        link = "/etc/systemd/system/multi-user.target.wants/stepaudiod.service"
        assert os.path.lexists(machine.path(link))
    finally:
        machine.systemctl("disable", "stepaudiod.service")


@pytest.mark.parametrize("path", sorted(WAYS.iterdir()), ids=lambda path: path.name)
def test_each_file_says_where_it_goes(path: Path) -> None:
    assert re.search(rf"(?m)^#   .* /usr/share/stepaudiod/ways/{path.name} .*/etc/\S+$", path.read_text())
