"""The number of attempts of each attack, and the table of results."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

Tally = Callable[..., None]

ROWS = pytest.StashKey[list[tuple[str, int, int]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def scale() -> int:
    """Multiply the number of attempts by this; `ATTACK_SCALE`, 1 by default."""
    return int(os.environ.get("ATTACK_SCALE", "1"))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Record an attack: its name, the number of attempts, and the number that the daemon withstood."""

    def record(name: str, tried: int, held: int) -> None:
        request.config.stash[ROWS].append((name, tried, held))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table in the form of docs/security.md."""
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.section("attacks")
        terminalreporter.write_line("| attack | tried | held |\n| --- | --- | --- |")
        for name, tried, held in rows:
            terminalreporter.write_line(f"| {name} | {tried:,} | {held:,} |")
