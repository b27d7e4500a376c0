"""An open page while its daemon sleeps and wakes repeatedly.

Knows nothing of how the daemon is started.
"""

from __future__ import annotations

import time
from typing import Protocol

from tests.browser.browser import Browser

NIGHTS = 10
QUIET_S = 3.0


class Daemon(Protocol):
    """A daemon that is started by connections and exits when idle."""

    def starts(self) -> int:
        """How many times it has been started."""

    def sleeps(self) -> bool:
        """Whether no process of it runs."""


def sleeps(browser: Browser) -> bool:
    """Whether the page says so."""
    return browser.at("#badge").get_attribute("data-state") == "asleep"


def typed(browser: Browser) -> str | None:
    """The contents of the field."""
    return browser.at("#speak_text textarea").get_attribute("value")


def live_through(browser: Browser, daemon: Daemon) -> None:
    """Speak after each of ten sleeps, on one page that is never reloaded."""
    browser.open()
    browser.script("window.sameDocument = true")
    starts = daemon.starts()
    text = typed(browser)
    for night in range(1, NIGHTS + 1):
        browser.wait(lambda: daemon.sleeps() and sleeps(browser))
        assert daemon.starts() == starts, "only the click has woken it"
        assert typed(browser) == text
        text = f"Morning number {night}."
        browser.write("#speak_text textarea", text)
        assert daemon.sleeps(), "typing does not wake it"
        browser.click("#speak_start")
        browser.wait(lambda night=night: len(browser.all("#history audio")) == night)  # type: ignore[misc]
        assert browser.text("#speak_card h3") == text
        starts += 1
        assert daemon.starts() == starts
    browser.wait(lambda: daemon.sleeps() and sleeps(browser))
    time.sleep(QUIET_S)  # that nothing happens can only be seen by waiting
    assert daemon.starts() == starts
    assert daemon.sleeps()
    assert browser.script("return window.sameDocument")
    assert typed(browser) == text
    assert len(browser.all("#history audio")) == NIGHTS
    assert browser.console() == []
