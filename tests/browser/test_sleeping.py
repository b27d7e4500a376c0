"""A page and an idle exit together: the tab neither keeps the daemon awake nor wakes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.activation import Activator
from tests.browser.browser import Browser
from tests.browser.conftest import StartBrowser

SLEEPS = 10
QUIET_S = 3.0


def url(activator: Activator) -> str:
    host, port = activator.address
    return f"http://{host}:{port}"


def sleeps(browser: Browser) -> bool:
    return browser.at("#badge").get_attribute("data-state") == "asleep"


def test_the_first_visit_shows_what_is_waking_and_gives_way_by_itself(
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
    browser = start_browser(url(daemons))
    browser.open()
    browser.script("window.sameDocument = true")
    for night in range(1, SLEEPS + 1):
        browser.wait(lambda: len(daemons.exit_codes) == daemons.starts and sleeps(browser))
        starts = daemons.starts
        browser.write("#speak_text textarea", f"Morning number {night}.")
        browser.click("#speak_start")
        browser.wait(lambda night=night: len(browser.all("#history audio")) == night)  # type: ignore[misc]
        assert browser.text("#speak_card h3") == f"Morning number {night}."
        assert daemons.starts == starts + 1
    browser.wait(lambda: len(daemons.exit_codes) == daemons.starts and sleeps(browser))
    starts = daemons.starts
    time.sleep(QUIET_S)  # that nothing happens can only be seen by waiting
    assert daemons.starts == starts
    assert set(daemons.exit_codes) == {0}
    assert browser.script("return window.sameDocument")
    assert browser.at("#speak_text textarea").get_attribute("value") == f"Morning number {SLEEPS}."
    assert len(browser.all("#history audio")) == SLEEPS
    assert browser.console() == []
