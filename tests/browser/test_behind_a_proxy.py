"""The page below a path of another server."""

from __future__ import annotations

import pytest

from tests.activation import DaemonProcess
from tests.browser.conftest import StartBrowser
from tests.proxy import PREFIX, proxied


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", "/?lang=zh"])
def test_the_page_speaks_below_a_prefix(
    start_browser: StartBrowser, embedded: DaemonProcess, path: str
) -> None:
    with proxied(embedded.address) as proxy:
        browser = start_browser(proxy.url)
        browser.open(path)
        browser.write("#speak_text textarea", "Good morning to you.")
        browser.click("#speak_start")
        browser.wait(lambda: len(browser.all("#history audio")) == 1)
        made = browser.script("return document.querySelector('#speak_card audio').src")
        assert made.startswith("blob:")
        assert f"POST {PREFIX}/v1/audio/speech" in proxy.passed
        assert f"GET {PREFIX}/page/watch" in proxy.passed
        assert proxy.strays == []
        assert browser.console() == []
