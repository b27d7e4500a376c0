"""A user speaks a text on the page."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.activation import DaemonProcess
from tests.browser.browser import Browser
from tests.browser.conftest import StartBrowser
from tests.conftest import StartDaemon

FORMATS = ["mp3", "wav", "opus", "aac", "flac"]

PLAYABLE = "return document.querySelector('#speak_card audio').readyState"
LONG = "This sentence is one of many, and all of them together take a while to be said. " * 40


@pytest.fixture
def browser(start_browser: StartBrowser, embedded: DaemonProcess) -> Browser:
    browser = start_browser(embedded.url)
    browser.open()
    return browser


def speak(browser: Browser, text: str) -> None:
    browser.write("#speak_text textarea", text)
    browser.click("#speak_start")


def made(browser: Browser, count: int = 1) -> str:
    """Wait for that many results; return the title of the last one."""
    browser.wait(lambda: len(browser.all("#history audio")) == count)
    return browser.text("#speak_card h3")


def requests(daemon: DaemonProcess) -> dict[str, int]:
    answer = daemon.shared_client.get("/api/v1/models/status").json()["daemon"]
    return {**answer["requests"], "active": answer["active"]}


def test_a_text_is_spoken_and_nothing_is_asked_of_another_host(
    browser: Browser, embedded: DaemonProcess
) -> None:
    speak(browser, "Good morning to you.")
    assert made(browser) == "Good morning to you."
    assert browser.script("return document.querySelector('#speak_card audio').src").startswith("blob:")
    seconds = browser.wait(
        lambda: browser.script("return document.querySelector('#speak_card audio').duration")
    )
    assert 0.5 < seconds < 5
    drawn = "const c = document.querySelector('#speak_card canvas'), d = c.getContext('2d')"
    drawn += ".getImageData(0, 0, c.width, c.height).data; return d.some((byte) => byte > 0)"
    assert browser.wait(lambda: browser.script(drawn))
    hosts = {urlsplit(a).netloc for a in browser.addresses() if a.startswith("http")}
    assert hosts == {urlsplit(embedded.url).netloc}
    assert browser.console() == []


EAR = """
const connect = AudioNode.prototype.connect;
const start = AudioBufferSourceNode.prototype.start;
window.played = [];
AudioBufferSourceNode.prototype.start = function (when) {
  window.played.push(this.buffer.getChannelData(0));
  window.rate = this.buffer.sampleRate;
  return start.call(this, when);
};
AudioNode.prototype.connect = function (to, ...more) {
  if (to !== this.context.destination) return connect.call(this, to, ...more);
  if (!this.context.ear) {
    this.context.ear = this.context.createAnalyser();
    connect.call(this.context.ear, to);
  }
  window.ear = this.context.ear;
  return connect.call(this, window.ear);
};
"""
"""Hears what goes to the loudspeaker, and keeps each piece that is played."""
IS_HEARD = """
if (!window.ear) return false;
const samples = new Float32Array(window.ear.fftSize);
window.ear.getFloatTimeDomainData(samples);
return samples.some((sample) => Math.abs(sample) > 0.01);
"""
COMPARE = """
const done = arguments[arguments.length - 1];
(async () => {
  const file = await (await fetch(document.querySelector("#speak_card audio").src)).arrayBuffer();
  const whole = (await new OfflineAudioContext(1, 1, window.rate).decodeAudioData(file)).getChannelData(0);
  let at = 0, worst = 0;
  for (const piece of window.played) for (const sample of piece) {
    worst = Math.max(worst, Math.abs(sample - whole[at++]));
  }
  done({pieces: window.played.length, missing: whole.length - at, worst});
})();
"""


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_audio_plays_before_the_response_ends_in_every_format(
    browser: Browser, embedded: DaemonProcess, format: str
) -> None:
    browser.script(EAR)
    browser.click("#speak_text textarea")  # browsers play sound only after the user has used the page
    browser.script(
        "stepaudiod.speak(arguments[0], 'kokoro/af_heart', '', '', 1, arguments[1], null)", LONG, format
    )
    assert browser.wait(lambda: browser.script(IS_HEARD))
    assert requests(embedded)["active"] == 1
    assert not browser.all("#speak_card audio")
    browser.click("#speak_stop")
    browser.wait(lambda: requests(embedded)["active"] == 0)
    assert browser.wait(lambda: browser.script("return window.ear.context.state === 'closed'"))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_played_audio_equals_the_saved_audio(browser: Browser, format: str) -> None:
    browser.script(EAR)
    browser.click("#speak_text textarea")  # browsers play sound only after the user has used the page
    text = "One sentence, and another. " * 4
    browser.script(
        "stepaudiod.speak(arguments[0], 'kokoro/af_heart', '', '', 1, arguments[1], 7)", text, format
    )
    made(browser)
    heard = browser.driver.execute_async_script(COMPARE)
    assert heard["pieces"] > 1
    assert heard["missing"] == 0
    assert heard["worst"] < 0.01


@pytest.mark.slow
def test_every_format_is_saved_under_its_name(browser: Browser) -> None:
    for count, name in enumerate(("mp3", "opus", "aac", "flac"), start=1):
        browser.script("stepaudiod.speak('Hello.', 'kokoro/af_heart', '', '', 1, arguments[0], null)", name)
        made(browser, count)
        assert browser.at("#speak_card a").get_attribute("download") == f"speech.{name}"
        assert browser.wait(lambda: browser.script(PLAYABLE))


@pytest.mark.slow
def test_sound_comes_while_it_is_made_and_stopping_stops_the_worker(
    browser: Browser, embedded: DaemonProcess
) -> None:
    before = requests(embedded)["cancelled"]
    speak(browser, LONG[:800])  # typing takes longer than speaking
    browser.wait(lambda: "s generated" in browser.text("#speak_result [role=status]"))
    assert requests(embedded)["active"] == 1
    assert browser.wait(lambda: browser.at("#badge").get_attribute("data-state") == "busy")
    browser.click("#speak_stop")
    browser.wait(lambda: requests(embedded)["active"] == 0)
    assert requests(embedded)["cancelled"] == before + 1
    assert browser.text("#speak_result [role=status]") == "Stopped."


def test_errors_say_what_to_do(browser: Browser) -> None:
    speak(browser, " ")
    assert browser.wait(lambda: browser.text("#speak_result [role=alert]")) == "Enter a text first."
    speak(browser, "…!?")
    browser.wait(lambda: "That did not work" in browser.text("#speak_result [role=alert]"))


@pytest.mark.slow
def test_the_request_is_copied_for_a_terminal_and_for_a_program(
    browser: Browser, embedded: DaemonProcess
) -> None:
    browser.script("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    speak(browser, "It's me.")
    made(browser)
    browser.press("Copy as curl", "#speak_card")
    curl = browser.wait(lambda: browser.script("return window.copied"))
    assert curl.startswith(f"curl -sSN --fail-with-body {embedded.url}/v1/audio/speech ")
    assert "It'\\''s me." in curl
    browser.press("Copy as Python", "#speak_card")
    python = browser.wait(lambda: (text := browser.script("return window.copied")) != curl and text)
    compile(python, "copied", "exec")
    assert f'base_url="{embedded.url}/v1"' in python


@pytest.mark.slow
def test_unavailable_features_are_disabled_with_installation_hints(browser: Browser) -> None:
    browser.tab("Edit")
    tasks = "[...document.querySelectorAll('#edit_task input')]"
    states = browser.script(f"return Object.fromEntries({tasks}.map((task) => [task.value, task.disabled]))")
    assert states["emotion"]
    assert not states["denoise"]
    assert "stepaudioctl models pull step-audio-editx" in browser.text("#edit_missing")
    assert "stepaudioctl models pull step-audio-editx" in browser.text("#speak_manner")


@pytest.mark.slow
def test_two_users_do_not_see_each_others_results(
    browser: Browser, start_browser: StartBrowser, embedded: DaemonProcess
) -> None:
    other = start_browser(embedded.url)
    other.open()
    speak(browser, "This is mine.")
    speak(other, "And this is mine.")
    assert made(browser) == "This is mine."
    assert made(other) == "And this is mine."
    browser.driver.refresh()
    browser.wait_ready()
    assert "This is mine." in browser.text("#history")
    assert "And this" not in browser.text("#history")


@pytest.mark.slow
def test_existing_results_are_not_replaced_by_new_ones(browser: Browser) -> None:
    speak(browser, "One.")
    made(browser)
    browser.script("document.querySelector('#history audio').isListenedTo = true")
    speak(browser, "Two.")
    made(browser, 2)
    kept = "return [...document.querySelectorAll('#history audio')].map((player) => !!player.isListenedTo)"
    assert browser.script(kept) == [False, True]
    browser.tab("History")
    browser.press("Remove", "#history")
    made(browser, 1)
    assert browser.script(kept) == [True]
    assert browser.script("return document.querySelector('#history').contains(document.activeElement)")


@pytest.mark.slow
def test_results_expire(start_browser: StartBrowser, start_daemon: StartDaemon, cache: Path) -> None:
    daemon = start_daemon({"cache_dir": cache, "page.keep_results": 2})
    browser = start_browser(daemon.url)
    browser.open()
    speak(browser, "Short lived.")
    made(browser)
    made(browser, 0)
