"""The status tab: loading, memory, and unloading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.activation import DaemonProcess
from tests.browser.browser import Browser
from tests.browser.conftest import StartBrowser
from tests.conftest import StartDaemon
from tests.gpu import Gpu

SPEAK_S = 120.0
"""Random weights don't know when to end."""
KEEP_STAGES = """
window.stages = new Set();
new MutationObserver(() => {
  const stage = document.querySelector("#status_load"), bar = document.querySelector("#status progress");
  if (stage) window.stages.add(`${stage.textContent} of ${bar.max}: ${bar.value}`);
}).observe(document.querySelector("#status"), {childList: true, subtree: true, characterData: true});
"""


@pytest.fixture(params=["http", "page"])
def sleepy(
    request: pytest.FixtureRequest, start_daemon: StartDaemon, data: Path, cache: Path
) -> DaemonProcess:
    """A daemon with Step-Audio-EditX on random weights, which loads for the first text."""
    settings: dict[str, object] = {
        "data_dir": data,
        "cache_dir": cache,
        "engine": "auto",
        "preload": "work",
        "step_audio.dtype": "fp32",
        "step_audio.check_output": "false",
    }
    return start_daemon(settings, roles=(request.param,))


def facts(browser: Browser) -> dict[str, str]:
    """The status list as a dictionary."""
    script = "return [...document.querySelectorAll('#status dt')].map((dt) => [dt.textContent,"
    return dict(browser.script(f"{script} dt.nextElementSibling.textContent])"))


def daemon_status(daemon: DaemonProcess) -> dict[str, object]:
    answer: dict[str, object] = daemon.shared_client.get("/api/v1/models/status").json()["daemon"]
    return answer


def speak(browser: Browser, count: int) -> None:
    browser.tab("Speak")
    browser.write("#speak_text textarea", "Mm.")
    browser.click("#speak_start")
    browser.wait(lambda: len(browser.all("#history audio")) == count, SPEAK_S)


@pytest.mark.slow
def test_loading_is_shown_and_the_model_can_be_unloaded(
    start_browser: StartBrowser, sleepy: DaemonProcess
) -> None:
    browser = start_browser(sleepy.url)
    browser.open()
    browser.tab("Status")
    browser.wait(lambda: facts(browser).get("Engine") == "step-audio-editx")
    assert facts(browser)["Reason"] == "the best that is installed"
    assert facts(browser)["step-audio-editx"] == "not in memory"
    assert re.fullmatch(r"in \d+ s", facts(browser)["Sleep"])
    assert not browser.at("#sleep_now").is_enabled()

    browser.script(KEEP_STAGES)
    speak(browser, 1)
    stages = browser.script("return [...window.stages]")
    assert any(re.fullmatch(r"step-audio-editx, [a-z ]+ \d+ % of 1: [\d.]+", each) for each in stages), stages

    browser.tab("Status")
    browser.wait(lambda: facts(browser)["step-audio-editx"] == "in memory")
    # a request is counted down after its last sound
    browser.wait(lambda: facts(browser)["Queue"] == "0 in progress, 0 waiting")
    assert facts(browser)["GPU memory"] == "none used"
    assert daemon_status(sleepy)["worker_pid"] is not None
    browser.click("#sleep_now")
    browser.wait(lambda: browser.text("#status [role=status]") == "The model has been unloaded.")
    assert daemon_status(sleepy)["worker_pid"] is None
    browser.wait(lambda: facts(browser)["step-audio-editx"] == "not in memory")
    browser.wait(lambda: not browser.at("#sleep_now").is_enabled())

    speak(browser, 2)
    assert browser.console() == []


@pytest.mark.slow
def test_a_loading_model_can_be_unloaded(start_browser: StartBrowser, sleepy: DaemonProcess) -> None:
    browser = start_browser(sleepy.url)
    browser.open()
    browser.write("#speak_text textarea", "Mm.")
    browser.click("#speak_start")
    browser.tab("Status")
    browser.wait(lambda: browser.all("#status_load"))
    browser.click("#sleep_now")
    # a request waits for this model, so it is not unloaded
    browser.wait(lambda: "Unload it when that is done" in browser.text("#status [role=alert]"))
    browser.tab("Speak")
    browser.click("#speak_stop")
    browser.tab("Status")
    browser.wait(lambda: daemon_status(sleepy)["active"] == 0)
    browser.click("#sleep_now")
    browser.wait(lambda: browser.text("#status [role=status]") == "The model has been unloaded.")
    assert daemon_status(sleepy)["worker_pid"] is None


@pytest.mark.slow
def test_a_chinese_page_says_why_in_chinese(start_browser: StartBrowser, embedded: DaemonProcess) -> None:
    browser = start_browser(embedded.url, language="zh-CN")
    browser.open()
    browser.tab("状态")
    browser.wait(lambda: facts(browser).get("原因") == '配置为 engine = "kokoro"')
    assert "安装 stepaudiod[step-audio]，再运行 stepaudioctl models pull step-audio-editx" in browser.text(
        "#status"
    )
    assert "安装 stepaudiod[step-audio]" in browser.text("#edit_missing")
    assert "安装 stepaudiod[step-audio]" in browser.text("#speak_manner")
    browser.tab("朗读")
    browser.write("#speak_text textarea", "…!?")
    browser.click("#speak_start")
    said = browser.wait(lambda: browser.text("#speak_result [role=alert]"))
    assert said.startswith("操作失败。 文字中没有可朗读的内容")


@pytest.mark.slow
def test_a_dozing_model_is_shown(
    start_browser: StartBrowser, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    gpu = Gpu(tmp_path / "gpu")
    daemon = start_daemon({"step_audio.doze_after": 3, "preload": "work"}, environ=gpu.environ)
    browser = start_browser(daemon.url)
    browser.open()
    speak(browser, 1)
    browser.tab("Status")
    browser.wait(lambda: facts(browser)["State"] == "Dozing: the model is not on the GPU")
    assert facts(browser)["GPU memory"] == "none used"
    assert facts(browser)["hibari"] == "in memory"
    assert re.fullmatch(r"Dozing, sleeps in \d+ s", browser.text("#badge"))
    gpu.set("others", 135_000_000_000)
    browser.tab("Speak")
    browser.click("#speak_start")
    browser.wait(lambda: browser.text("#badge") == "Waiting for GPU memory")
    gpu.clear("others")
    browser.wait(lambda: len(browser.all("#history audio")) == 2)
    assert browser.console() == []
