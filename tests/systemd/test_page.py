"""The page in a real browser under a real systemd: ten sleeps in a row under one open tab."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.browser.browser import missing_programs
from tests.browser.conftest import StartBrowser, start_browser
from tests.browser.nights import live_through
from tests.systemd.machine import Machine
from tests.systemd.test_daemon import SERVICE, SOCKET, configure

__all__ = ["start_browser"]

STARTED = "39f53479d3a045ac8e11786248231fbf"
"""The id of systemd's message that a unit is up: systemd.journal-fields(7), `journalctl --catalog`."""


@dataclass(frozen=True)
class Unit:
    """The daemon as systemd's unit.

    Attributes:
        machine: where it lives.
        mark: since when its starts count, in the journal.
    """

    machine: Machine
    mark: int

    def starts(self) -> int:
        """The number of starts, from systemd."""
        return len(self.machine.journal.since(self.mark, UNIT=SERVICE, MESSAGE_ID=STARTED))

    def sleeps(self) -> bool:
        """Whether its control group is empty and systemd reports it inactive."""
        return (
            self.machine.processes(SERVICE) == [] and self.machine.show(SERVICE, "ActiveState") == "inactive"
        )


@pytest.fixture
def unit(machine: Machine) -> Iterator[Unit]:
    """A sleeping daemon with an idle timeout of one second."""
    configure(machine, idle_timeout=1)
    machine.systemctl("start", SOCKET)
    yield Unit(machine, machine.journal.mark())
    machine.reset(SERVICE, SOCKET)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}")
def test_it_sleeps_under_an_open_tab_and_the_next_click_wakes_it_every_time(
    unit: Unit, start_browser: StartBrowser
) -> None:
    sockets = unit.machine.show(SOCKET, "InvocationID")
    live_through(start_browser("http://127.0.0.1:7860", network=unit.machine.network), unit)
    assert unit.machine.show(SOCKET, "InvocationID") == sockets
    assert unit.machine.show(SERVICE, "Result") == "success"
    failures = [e for e in unit.machine.journal.since(unit.mark, UNIT=SERVICE) if int(e["PRIORITY"]) < 5]
    assert failures == []
