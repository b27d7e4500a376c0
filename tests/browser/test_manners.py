"""Languages, small screens, keyboard, screen readers, and no requests to other hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from stepaudiod.web import page
from tests.activation import DaemonProcess
from tests.browser.browser import Browser
from tests.browser.conftest import StartBrowser

PAGE = Path(page.__file__).parent
TABS = {
    "en": ("Speak", "Edit", "Voices", "History", "Status"),
    "zh-CN": ("朗读", "修改", "声音", "历史", "状态"),
}
RUN_AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then((result) => done(result.violations));
"""


def violations(browser: Browser, axe: str) -> list[str]:
    """Violations that axe calls serious or critical, with their elements."""
    browser.script(axe)
    found: list[dict[str, Any]] = browser.driver.execute_async_script(RUN_AXE)
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


DESK, PHONE = (1200, 900), (390, 844)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "colors", "size"),
    [
        ("en", "light", DESK),
        ("zh-CN", "light", PHONE),
        pytest.param("en", "dark", DESK, marks=pytest.mark.slow),
        pytest.param("zh-CN", "light", DESK, marks=pytest.mark.slow),
        pytest.param("zh-CN", "dark", DESK, marks=pytest.mark.slow),
        pytest.param("en", "dark", PHONE, marks=pytest.mark.slow),
    ],
)
def test_the_page_has_no_serious_accessibility_violations(
    start_browser: StartBrowser,
    embedded: DaemonProcess,
    axe: str,
    humming: Path,
    language: str,
    colors: str,
    size: tuple[int, int],
) -> None:
    browser = start_browser(embedded.url, language=language, size=size)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": colors}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    browser.open()
    browser.click("#speak_start")
    browser.wait(lambda: browser.all("#speak_card audio"))
    browser.tab(TABS[language][1])
    browser.click("#edit_start")
    browser.wait(lambda: browser.text("#edit_result [role=alert]"))
    browser.at("#edit_file").send_keys(str(humming))
    browser.wait(lambda: browser.all("#edit_before audio"))
    browser.click("#edit_start")
    browser.wait(lambda: browser.all("#edit_card audio"))
    found = {}
    for tab in TABS[language]:
        browser.tab(tab)
        if serious := violations(browser, axe):
            found[tab] = serious
    assert found == {}, "\n".join(line for lines in found.values() for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("colors", ["light", "dark"])
def test_the_small_pages_have_no_serious_accessibility_violations(
    start_browser: StartBrowser, embedded: DaemonProcess, axe: str, colors: str
) -> None:
    browser = start_browser(embedded.url, language="zh-CN")
    scheme = {"features": [{"name": "prefers-color-scheme", "value": colors}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    for address in (f"{embedded.url}/simple", f"file://{PAGE / 'waking.html'}"):
        browser.driver.get(address)
        browser.wait(lambda: browser.script("return document.documentElement.lang").startswith("zh"))
        assert violations(browser, axe) == []


@pytest.mark.slow
def test_the_page_speaks_the_browsers_language_and_changes_it_without_losing_the_text(
    start_browser: StartBrowser, embedded: DaemonProcess
) -> None:
    browser = start_browser(embedded.url, language="zh-CN")
    browser.open()
    assert browser.script("return document.documentElement.lang") == "zh-CN"
    assert browser.at("#speak_start").text == "朗读"
    assert "你好" in str(browser.at("#speak_text textarea").get_attribute("value"))
    browser.write("#speak_text textarea", "我写的字。")
    browser.click("#speak_start")
    browser.wait(lambda: browser.all("#speak_card audio"))
    browser.click(".top a")
    browser.wait(lambda: browser.script("return document.documentElement.lang") == "en")
    browser.wait_ready()
    assert browser.at("#speak_start").text == "Speak"
    browser.wait(lambda: browser.at("#speak_text textarea").get_attribute("value") == "我写的字。")
    assert "我写的字。" in browser.text("#history")
    browser.open()
    assert browser.at("#speak_start").text == "Speak"


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    start_browser: StartBrowser, embedded: DaemonProcess, language: str
) -> None:
    browser = start_browser(embedded.url, size=(360, 740), language=language)
    browser.open()
    for tab in browser.script(
        "return [...document.querySelectorAll('[role=tab]')].map((t) => t.textContent)"
    ):
        browser.tab(tab)
        width = browser.script("return document.documentElement.scrollWidth")
        assert width <= 360, (tab, width)
        assert (
            browser.script("return document.querySelector('#speak_start').getBoundingClientRect().right")
            <= 360
        )


@pytest.mark.slow
def test_the_keyboard_reaches_everything(start_browser: StartBrowser, embedded: DaemonProcess) -> None:
    browser = start_browser(embedded.url)
    browser.open()
    field = browser.at("#speak_text textarea")
    field.click()
    reached = []
    for _ in range(12):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        element = browser.driver.switch_to.active_element
        reached.append(element.get_attribute("id") or element.get_attribute("aria-label") or element.text)
        if reached[-1] == "speak_start":
            break
    assert reached[-1] == "speak_start", reached
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.wait(lambda: browser.all("#speak_card audio"))
    browser.at("#tab_speak-button").send_keys(Keys.ENTER)
    browser.at("#tab_status-button").send_keys(Keys.ENTER)
    browser.wait(lambda: browser.at("#status").is_displayed())


@pytest.mark.slow
def test_the_browser_is_forbidden_to_fetch_from_others(
    start_browser: StartBrowser, embedded: DaemonProcess
) -> None:
    browser = start_browser(embedded.url)
    browser.open()
    outcome = browser.driver.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', (event) => done(event.blockedURI));"
        "fetch('https://example.org/').catch(() => {});"
    )
    assert outcome == "https://example.org/"
