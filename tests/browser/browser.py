"""Chromium with a new profile that can reach only one machine, and the addresses that it tried to reach."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

DEADLINE_S = 30.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
)

Found = TypeVar("Found")


def missing_programs() -> list[str]:
    """Programs for browser tests that aren't installed."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


class Browser:
    """A browser with its own profile.

    Args:
        folder: for its profile and what it downloads.
        url: of the daemon.
        language: as the browser asks for it.
        size: of its window.
        flags: more for Chromium.
        network: the namespace that it lives in, as a file of proc(5); None for ours.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        language: str = "en",
        size: tuple[int, int] = (1200, 900),
        flags: tuple[str, ...] = (),
        network: Path | None = None,
    ) -> None:
        self.url = url
        self.downloads = folder / "downloads"
        options = ChromeOptions()
        options.binary_location = shutil.which("chromium") or "chromium"
        if network is not None:
            options.binary_location = str(_in_network(folder / "chromium", options.binary_location, network))
            options.add_argument("--remote-debugging-pipe")  # a port would be in there too, out of reach
        for flag in (*FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", f"--lang={language}"):
            options.add_argument(flag)
        options.add_argument(f"--window-size={size[0]},{size[1]}")
        options.add_experimental_option(
            "prefs",
            {"intl.accept_languages": language, "download.default_directory": str(self.downloads)},
        )
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = Chrome(options, Service(shutil.which("chromedriver")))
        if size[0] < 500:  # a window has a least width; a phone is emulated
            metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.requests: list[str] = []

    def close(self) -> None:
        """End it."""
        self.driver.quit()

    def open(self, path: str = "/") -> None:
        """Load a page and wait until it is ready."""
        self.driver.get(self.url + path)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the scripts have filled the page."""
        self.wait(lambda: self.script("return document.documentElement.dataset.ready") == "yes")

    def wait(self, condition: Callable[[], Found], seconds: float = DEADLINE_S) -> Found:
        """Wait until a condition holds."""

        def look(_: Chrome) -> Found | bool:
            return condition() or False

        try:
            return WebDriverWait(self.driver, seconds, 0.05).until(look)  # type: ignore[return-value]
        except Exception:
            print(self.console(), self.text("body")[:2000])
            raise

    def script(self, text: str, *values: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(text, *values)

    def at(self, selector: str) -> WebElement:
        """The first matching element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All matching elements."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of an element, visible or not."""
        return str(self.script("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def tab(self, name: str) -> None:
        """Open a tab; on a small screen some of them are in a menu."""
        if name not in [tab.text for tab in self.all("[role=tab]")]:
            self.click(".overflow-menu > button")
            self.press(name, ".overflow-dropdown")
        else:
            next(tab for tab in self.all("[role=tab]") if tab.text == name).click()

    def click(self, selector: str) -> None:
        """Click an element once it is shown and doesn't move."""

        def clicked() -> bool:
            with suppress(ElementNotInteractableException, StaleElementReferenceException):
                element = self.at(selector)
                self.script("arguments[0].scrollIntoView({block: 'center'})", element)
                element.click()
                return True
            return False

        self.wait(clicked)

    def press(self, text: str, within: str = "body") -> None:
        """Click the button with this label once it doesn't move."""

        def pressed() -> bool:
            with suppress(ElementNotInteractableException, StaleElementReferenceException):
                for button in self.all(f"{within} button"):
                    if button.text.strip() == text:
                        self.script("arguments[0].scrollIntoView({block: 'center'})", button)
                        button.click()
                        return True
            return False

        self.wait(pressed)

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file."""

        def chosen() -> bool:
            with suppress(ElementNotInteractableException, StaleElementReferenceException):
                self.at(selector).send_keys(str(path))
                return True
            return False

        self.wait(chosen)

    def write(self, selector: str, text: str) -> None:
        """Replace the contents of a field."""

        def written() -> bool:
            with suppress(ElementNotInteractableException, StaleElementReferenceException):
                field = self.at(selector)
                self.script("arguments[0].select()", field)
                field.send_keys(text)
                return True
            return False

        self.wait(written)

    def _log(self, name: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(name)  # type: ignore[no-untyped-call]
        return entries

    def console(self, *expected: str) -> list[str]:
        """Errors that the page has logged, but those of the expected paths; a stream that ends with the
        daemon is none."""
        severe = [entry["message"] for entry in self._log("browser") if entry["level"] == "SEVERE"]
        ignored = [f"{path} - Failed" for path in ("/page/watch", *expected)]
        return [message for message in severe if not any(each in message for each in ignored)]

    def addresses(self) -> list[str]:
        """All addresses that the page has tried to reach."""
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        return self.requests


def _in_network(script: Path, program: str, network: Path) -> Path:
    """Write a program that starts another one in that network."""
    script.write_text(f'#!/bin/sh\nexec nsenter --net={network} -- {program} "$@"\n')
    script.chmod(0o755)
    return script
