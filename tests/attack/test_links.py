"""Links planted by the daemon's user in every path that root uses, before and during every command."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.attack.conftest import Tally
from tests.ctl.conftest import Ctl, control
from tests.ctl.hub import Hub, published
from tests.ctl.test_links import COMMANDS, DAEMON, LINKS, Machine, pytestmark, shared_machine

__all__ = ["pytestmark"]

RACES = 4


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub with tiny files."""
    made = Hub(published(5000))
    yield made
    made.close()


def root_ctl(hub: Hub, machine: Machine, tmp_path: Path) -> Ctl:
    """`sudo stepaudioctl` beside that hub."""
    environ = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "STEPAUDIOD_DATA_DIR": str(machine.data)}
    return control(hub.url, environ | {"NO_PROXY": "127.0.0.1,localhost"}, Path("/usr/bin"))


def test_links_in_every_place(hub: Hub, tmp_path: Path, tally: Tally) -> None:
    held = 0
    for plant in LINKS.values():
        for command in COMMANDS:
            with shared_machine() as machine:
                plant(machine)
                before = machine.precious()
                done = root_ctl(hub, machine, tmp_path).run("models", *command)
                held += machine.precious() == before and b"Traceback" not in done.stderr
    tried = len(LINKS) * len(COMMANDS)
    tally("links made by the daemon's user, before root works", tried, held)
    assert held == tried


def test_links_that_come_and_go(hub: Hub, tmp_path: Path, scale: int, tally: Tally) -> None:
    """A folder is swapped with a link between its check and its use, and back."""
    tried = held = 0
    for _ in range(RACES * scale):
        for command in COMMANDS:
            with shared_machine() as machine:
                tried += 1
                before = machine.precious()
                done = threading.Event()
                swapping = threading.Thread(target=_swap, args=(machine, done))
                swapping.start()
                root_ctl(hub, machine, tmp_path).run("models", *command)
                done.set()
                swapping.join()
                held += machine.precious() == before
    tally("links that come and go while root works", tried, held)
    assert held == tried


def _swap(machine: Machine, done: threading.Event) -> None:
    """As the daemon's user, swap folders and links as fast as possible."""
    places = (machine.models, machine.models / ".pulling" / "whisper-tiny", machine.models / "whisper-tiny")
    with suppress(FileExistsError):
        machine.models.mkdir()
    os.chown(machine.models, DAEMON, DAEMON)
    while not done.is_set():
        for place in places:
            aside = place.with_name(f"{place.name}-aside")
            with suppress(OSError):
                os.rename(place, aside)
                machine.plant(place, machine.victim)
                done.wait(0.0005)
                place.unlink()
                os.rename(aside, place)
