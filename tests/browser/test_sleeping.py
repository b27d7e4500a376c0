"""An open page and the idle exit: the page neither keeps the daemon awake nor wakes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.activation import Activator
from tests.browser.conftest import StartBrowser
from tests.browser.nights import live_through


@dataclass(frozen=True)
class Activated:
    """The daemons of an activator."""

    activator: Activator

    def starts(self) -> int:
        """The number of daemons so far."""
        return self.activator.starts

    def sleeps(self) -> bool:
        """Whether the last one has exited."""
        return len(self.activator.exit_codes) == self.activator.starts


def url(activator: Activator) -> str:
    host, port = activator.address
    return f"http://{host}:{port}"


def test_the_first_visit_shows_the_waking_page_and_then_the_page(
    activator: Callable[[dict[str, object]], Activator], start_browser: StartBrowser
) -> None:
    daemons = activator({"idle_timeout": 2})
    browser = start_browser(url(daemons))
    browser.driver.get(url(daemons))
    assert browser.text("h1") in ("Waking up", "stepaudiod")
    browser.wait_ready()
    assert browser.text("h1") == "stepaudiod"


@pytest.mark.slow
def test_it_sleeps_under_an_open_tab_and_the_next_click_wakes_it_every_time(
    activator: Callable[[dict[str, object]], Activator], start_browser: StartBrowser, cache: Path
) -> None:
    daemons = activator({"idle_timeout": 1, "cache_dir": cache})
    live_through(start_browser(url(daemons)), Activated(daemons))
    assert set(daemons.exit_codes) == {0}
