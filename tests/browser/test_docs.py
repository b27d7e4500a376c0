"""Swagger UI at /docs: it shows the document, sends requests, and keeps to its policy."""

from __future__ import annotations

import pytest

from tests.activation import DaemonProcess
from tests.browser.browser import Browser
from tests.browser.conftest import StartBrowser
from tests.proxy import PREFIX, proxied


def try_out(browser: Browser, operation: str) -> str:
    """Have an operation executed as it is filled in; returns the selector of its response."""
    block = f"#operations-{operation}"
    browser.driver.get(f"{browser.url}/docs#/{operation.replace('-', '/')}")
    browser.driver.refresh()  # another fragment alone loads nothing
    browser.click(f"{block} .try-out__btn")
    browser.click(f"{block} .execute")
    response = f"{block} .live-responses-table"
    browser.wait(lambda: browser.all(response))
    return response


@pytest.mark.slow
def test_the_document_is_shown_and_operations_work_below_a_prefix(
    start_browser: StartBrowser, embedded: DaemonProcess
) -> None:
    with proxied(embedded.address) as proxy:
        browser = start_browser(proxy.url)
        models = try_out(browser, "Models-listModels")
        assert "stepaudiod" in browser.text(".info .title")
        assert '"owned_by": "stepaudiod"' in browser.text(models)
        speech = try_out(browser, "Speech-createSpeech")
        browser.wait(lambda: browser.all(f"{speech} a[download]"))
        assert {f"GET {PREFIX}/v1/models", f"POST {PREFIX}/v1/audio/speech"} <= set(proxy.passed)
        assert proxy.strays == []
        assert browser.console() == []
        asked = [address for address in browser.addresses() if address.startswith("http")]
        assert [address for address in asked if not address.startswith(proxy.url)] == []
