"""Recording with the microphone, and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.activation import DaemonProcess
from tests.browser.browser import Browser
from tests.browser.conftest import StartBrowser
from tests.browser.test_editing import HUM_IS_REFUSED, change
from tests.web.conftest import hum, wav

LOUDNESS = """
const done = arguments[arguments.length - 1];
(async () => {
  const file = await (await fetch(document.querySelector(arguments[0]).src)).arrayBuffer();
  const sound = await new OfflineAudioContext(1, 1, 24000).decodeAudioData(file);
  const samples = sound.getChannelData(0);
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
  done([sound.duration, Math.sqrt(power)]);
})();
"""


def loudness(browser: Browser, selector: str) -> tuple[float, float]:
    """The duration and the mean loudness of a player's audio."""
    seconds, level = browser.driver.execute_async_script(LOUDNESS, selector)
    return seconds, level


@pytest.mark.slow
def test_a_microphone_recording_can_be_edited(
    start_browser: StartBrowser, embedded: DaemonProcess, tmp_path: Path
) -> None:
    voice = tmp_path / "voice.wav"
    voice.write_bytes(wav(hum(20.0, 48_000), 48_000))
    flags = ("--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={voice}")
    browser = start_browser(embedded.url, flags=flags)
    browser.open()
    browser.tab("Edit")
    browser.press("Record", "#edit_source")
    browser.wait(lambda: "0:03" in browser.text("#edit_source .actions"))
    assert browser.at("#edit_source button").get_attribute("aria-pressed") == "true"
    browser.click("#edit_source button")
    browser.wait(lambda: browser.all("#edit_before audio"))
    assert browser.at("#edit_source button").text == "Record"
    assert "microphone" in browser.text("#edit_before h3")
    seconds, level = loudness(browser, "#edit_before audio")
    assert 2 < seconds < 10
    assert level > 0.02
    change(browser, "speed")
    browser.wait(lambda: browser.all("#edit_card audio"))
    changed_s, changed_level = loudness(browser, "#edit_card .card:last-child audio")
    assert changed_level > 0.02
    assert not np.isclose(changed_s, seconds, rtol=0.05)
    assert browser.console(HUM_IS_REFUSED) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "tab", "record", "said"),
    [("en", "Edit", "Record", "allow the microphone there"), ("zh-CN", "修改", "录音", "允许麦克风")],
)
def test_a_blocked_microphone_is_explained(
    start_browser: StartBrowser, embedded: DaemonProcess, language: str, tab: str, record: str, said: str
) -> None:
    browser = start_browser(embedded.url, language=language)
    denied = {"permission": {"name": "microphone"}, "setting": "denied", "origin": embedded.url}
    browser.driver.execute_cdp_cmd("Browser.setPermission", denied)
    browser.open()
    browser.tab(tab)
    browser.press(record, "#edit_source")
    browser.wait(lambda: said in browser.text("#edit_source [role=alert]"))
    assert browser.at("#edit_source button").get_attribute("aria-pressed") == "false"


@pytest.mark.slow
def test_a_computer_without_a_microphone_is_told_so(
    start_browser: StartBrowser, embedded: DaemonProcess
) -> None:
    browser = start_browser(embedded.url)
    browser.open()
    missing = (
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') }"
    )
    browser.script(missing)
    browser.tab("Edit")
    browser.press("Record", "#edit_source")
    browser.wait(lambda: "no microphone" in browser.text("#edit_source [role=alert]"))
