"""A user edits a recording, adds a voice and speaks with it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.alert import Alert

from tests.activation import DaemonProcess
from tests.browser.browser import Browser
from tests.browser.conftest import StartBrowser

EDIT_S = 120.0
"""Random weights don't know when to end."""
HUM_IS_REFUSED = "/v1/audio/transcriptions"
"""A hum has no words: whether its transcription is refused depends on the processor."""


@pytest.fixture
def browser(start_browser: StartBrowser, step_audio: DaemonProcess) -> Browser:
    browser = start_browser(step_audio.url)
    browser.open()
    return browser


def change(browser: Browser, task: str) -> None:
    browser.script("document.querySelector(`#edit_task input[value=${arguments[0]}]`).click()", task)
    browser.script("document.querySelector('#edit_result [role=status]').textContent = ''")
    browser.click("#edit_start")


def changed(browser: Browser, count: int) -> str:
    """Wait for that many results; return the title of the last one."""
    browser.wait(lambda: len(browser.all("#history audio")) == count, EDIT_S)
    return browser.text("#edit_card .card:last-child h3")


def test_a_recording_is_edited_in_steps_that_can_be_undone(browser: Browser, humming: Path) -> None:
    browser.tab("Edit")
    browser.at("#edit_file").send_keys(str(humming))
    browser.wait(lambda: browser.all("#edit_before audio"))
    browser.wait(lambda: "Listening" not in browser.text("#edit_source [role=status]"))
    browser.write("#edit_transcript textarea", "hm hm hm")
    change(browser, "emotion")
    assert changed(browser, 1) == "After: Happy: glad and bright"
    assert len(browser.all("#edit_card canvas")) == 4
    browser.press("Continue with this", "#edit_card")
    change(browser, "denoise")
    assert changed(browser, 2) == "After: Noise"
    assert "Happy" in browser.text("#edit_card .card:first-child h3")
    browser.press("Continue with this", "#edit_card")
    steps = [button.text for button in browser.all("#edit_chain button")]
    assert steps == ["1. humming.wav", "2. Happy: glad and bright", "3. Noise", "Back one step"]
    browser.click("#edit_back")
    assert browser.text("#edit_before h3") == "Happy: glad and bright"
    browser.click("#edit_back")
    assert browser.text("#edit_before h3") == "humming.wav"
    assert browser.console(HUM_IS_REFUSED) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "title"),
    [
        ("clone", "After: Clone"),
        ("clone_emotion", "After: Clone: Happy: glad and bright"),
        ("clone_style", "After: Clone: Serious: earnest"),
    ],
)
def test_new_words_are_spoken_in_the_voice_of_a_recording(
    browser: Browser, humming: Path, task: str, title: str
) -> None:
    browser.tab("Edit")
    browser.at("#edit_file").send_keys(str(humming))
    browser.wait(lambda: browser.all("#edit_before audio"))
    browser.write("#edit_transcript textarea", "hm hm hm")
    browser.script("document.querySelector(`#edit_task input[value=${arguments[0]}]`).click()", task)
    browser.wait(lambda: browser.at("#edit_words textarea").is_displayed())
    assert not browser.at("#edit_text textarea").is_displayed()
    browser.click("#edit_start")
    assert "Enter the new words first" in browser.wait(lambda: browser.text("#edit_result [role=alert]"))
    browser.write("#edit_words textarea", "Mm.")
    browser.click("#edit_start")
    assert changed(browser, 1) == title
    browser.press("Continue with this", "#edit_card")
    assert browser.wait(lambda: browser.at("#edit_transcript textarea").get_attribute("value") == "Mm.")
    assert browser.console(HUM_IS_REFUSED) == []


@pytest.mark.slow
def test_a_sound_tag_is_inserted_at_the_cursor(browser: Browser, humming: Path) -> None:
    browser.tab("Edit")
    browser.at("#edit_file").send_keys(str(humming))
    browser.write("#edit_transcript textarea", "well then")
    browser.script("document.querySelector('#edit_task input[value=paralinguistic]').click()")
    browser.wait(lambda: browser.at("#edit_text textarea").is_displayed())
    browser.write("#edit_text textarea", "well then")
    browser.script("document.querySelector('#edit_text textarea').setSelectionRange(4, 4)")
    browser.press("Laughter", "#edit_sounds")
    assert browser.at("#edit_text textarea").get_attribute("value") == "well[laugh] then"


@pytest.mark.slow
def test_spoken_results_can_be_edited(browser: Browser) -> None:
    browser.write("#speak_text textarea", "Mm.")
    browser.click("#speak_start")
    browser.wait(lambda: browser.all("#speak_card audio"))
    browser.press("Edit this", "#speak_card")
    browser.wait(lambda: browser.at("#edit_before").is_displayed())
    assert browser.at("#edit_transcript textarea").get_attribute("value") == "Mm."


@pytest.mark.slow
def test_a_voice_is_added_used_exported_renamed_deleted_and_imported(
    browser: Browser, humming: Path, step_audio: DaemonProcess
) -> None:
    client = step_audio.shared_client
    browser.tab("Voices")
    browser.upload("#voice_file", humming)
    browser.write("#voice_name input, #voice_name textarea", "Aunt Mei")
    browser.write("#voice_transcript textarea", "hm hm")
    browser.click("#voice_add")
    assert "tick the box if the speaker agrees" in browser.wait(
        lambda: browser.text("#voice_result [role=alert]")
    )
    browser.click("#voice_consent input")
    browser.click("#voice_add")
    browser.wait(lambda: "Added: Aunt Mei." in browser.text("#voice_result [role=status]"))
    assert names(client) == {"Aunt Mei", "Hum"}

    browser.press("Export", "#voices_list .card:first-of-type")
    exported = browser.downloads / "aunt-mei.voice.json"
    browser.wait(exported.is_file)
    assert json.loads(exported.read_text())["transcript"] == "hm hm"

    browser.press("Rename", "#voices_list .card:first-of-type")
    prompt = Alert(browser.driver)
    prompt.send_keys("Aunt May")
    prompt.accept()
    browser.wait(lambda: names(client) == {"Aunt May", "Hum"})
    browser.wait(lambda: "Aunt May" in browser.text("#voices_list"))

    speak_as(browser, "step-audio-editx/aunt-may")
    browser.wait(lambda: browser.all("#speak_card audio"))

    browser.tab("Voices")
    browser.press("Delete", "#voices_list .card:first-of-type")
    Alert(browser.driver).accept()
    browser.wait(lambda: names(client) == {"Hum"})
    browser.wait(lambda: "Aunt May" not in browser.text("#voices_list"))
    browser.upload("#voice_import", humming)
    browser.wait(lambda: "ends in .voice.json" in browser.text("#voice_result [role=alert]"))
    browser.upload("#voice_import", exported)
    browser.wait(lambda: names(client) == {"Aunt Mei", "Hum"})
    client.delete("/v1/audio/voices/aunt-mei").raise_for_status()


def names(client: httpx.Client) -> set[str]:
    data = client.get("/v1/audio/voices").json()["data"]
    return {voice["name"] for voice in data if voice["type"] == "audio_sample"}


def speak_as(browser: Browser, voice: str) -> None:
    """Select a voice and an emotion, and speak."""
    browser.tab("Speak")
    browser.write("#speak_text textarea", "Mm.")
    choose(browser, "#speak_voice", voice.split("/")[0], "Aunt May")
    choose(browser, "#speak_manner", "", "Happy")
    browser.click("#speak_start")


def choose(browser: Browser, field: str, also: str, text: str) -> None:
    browser.click(f"{field} input")

    def chosen() -> bool:
        with suppress(StaleElementReferenceException):
            for option in browser.all(f"{field} [role=option]") or browser.all("[role=option]"):
                if text in option.text and also in option.text:
                    option.click()
                    return True
        return False

    browser.wait(chosen)
