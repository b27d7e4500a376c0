"""The page's files and its event stream, as a browser requests them."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from stepaudiod.web.errors import STATUSES
from tests.activation import DaemonProcess
from tests.conftest import StartDaemon

LONG = "This sentence is one of many, and all of them together take a while to be said. " * 60


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll; the awaited state has no event over HTTP."""
    for _ in range(600):
        if condition():
            return
        threading.Event().wait(0.1)
    raise AssertionError("it never came to that")


def state(client: httpx.Client) -> dict[str, object]:
    answer: dict[str, object] = client.get("/page/state").raise_for_status().json()
    return answer


@pytest.fixture(scope="module")
def page(start_module_daemon: StartDaemon) -> DaemonProcess:
    """A daemon whose page has been made."""
    daemon = start_module_daemon()
    daemon.shared_client.get("/").raise_for_status()
    wait_until(lambda: state(daemon.shared_client)["ready"] is True)
    return daemon


def test_the_first_visitor_gets_a_light_page_and_the_front_stays_light(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        first = client.get("/")
        assert "/page/state" in first.text
        assert len(first.content) < 10_000
        assert client.get("/healthz").json() == {"status": "ok"}
        wait_until(lambda: state(client)["ready"] is True)
        assert "window.gradio_config" in client.get("/").text
    libraries = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "pydantic_core" in libraries
    assert "orjson" not in libraries  # gradio's import would bring it


@pytest.mark.parametrize(
    ("preload", "path", "is_loaded"),
    [("page", "/", True), ("page", "/healthz", False), ("work", "/", False), ("start", "/healthz", True)],
)
def test_the_model_is_loaded_when_the_configuration_says(
    start_daemon: StartDaemon, preload: str, path: str, is_loaded: bool
) -> None:
    daemon = start_daemon({"preload": preload})
    with daemon.client() as client:
        client.get(path).raise_for_status()

        def status() -> dict[str, dict[str, object]]:
            answer: dict[str, dict[str, object]] = client.get("/api/v1/models/status").json()
            return answer

        if is_loaded:
            wait_until(lambda: status()["hibari"]["loaded"] is True)
            assert status()["daemon"]["requests"] == {"served": 0, "failed": 0, "cancelled": 0, "refused": 0}
        else:
            assert status()["daemon"]["worker_pid"] is None


def test_a_page_that_can_not_be_made_says_why(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    daemon = start_daemon({"cache_dir": tmp_path / "file"})
    with daemon.client() as client:
        client.get("/")
        wait_until(lambda: bool(state(client)["problem"]))
        assert "can't be written" in str(state(client)["problem"])
        assert client.get("/simple").status_code == 200


@pytest.mark.parametrize(
    ("accepted", "cookie", "lang"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", None, "zh-CN"),
        ("de, en;q=0.8, zh;q=0.5", None, "en"),
        ("fr", None, "en"),
        ("en", "zh", "zh-CN"),
        ("zh", "xx", "zh-CN"),
    ],
)
def test_the_page_is_in_the_readers_language(
    page: DaemonProcess, accepted: str, cookie: str | None, lang: str
) -> None:
    headers = {"Accept-Language": accepted} | ({"Cookie": f"lang={cookie}"} if cookie else {})
    assert f'lang="{lang}"' in page.shared_client.get("/", headers=headers).text[:200]


def test_a_chosen_language_is_kept(page: DaemonProcess) -> None:
    chosen = page.shared_client.get("/?lang=zh")
    assert 'lang="zh-CN"' in chosen.text[:200]
    assert chosen.headers["set-cookie"].startswith("lang=zh;")
    assert "set-cookie" not in page.shared_client.get("/?lang=<script>").headers


def test_the_page_names_no_other_host_and_forbids_them(page: DaemonProcess) -> None:
    answer = page.shared_client.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "microphone=(self)" in answer.headers["permissions-policy"]
    for host in ("googleapis", "gstatic", "cdnjs", "huggingface", "githubusercontent", "stepaudiod.invalid"):
        assert host not in answer.text


PATHS = ("/", "/simple", "/page/state", "/page/watch", "/page/main.js", "/theme.css", "/favicon.ico")


@pytest.fixture(scope="module")
def alone(start_module_daemon: StartDaemon, page: DaemonProcess) -> DaemonProcess:
    """A daemon whose first socket serves the page only."""
    daemon = start_module_daemon({"cache_dir": page.folder / "cache"}, roles=("page", "http"))
    daemon.shared_client.get("/").raise_for_status()
    return daemon


@pytest.mark.parametrize("path", PATHS)
def test_the_page_answers_to_allowed_hosts_only(alone: DaemonProcess, path: str) -> None:
    refused = alone.shared_client.get(path, headers={"Host": "evil.example:7860"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (421, "host_not_allowed")


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/"])
def test_pages_of_other_sites_can_not_fetch_ours(alone: DaemonProcess, path: str) -> None:
    refused = alone.shared_client.get(path, headers={"Sec-Fetch-Site": "cross-site"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")


def test_pages_of_other_sites_can_not_use_what_the_page_uses(alone: DaemonProcess) -> None:
    evil = {"Origin": "https://evil.example"}
    for path in ("/v1/audio/speech", "/v1/audio/edits", "/v1/audio/voices", "/api/v1/models/hibari/unload"):
        refused = alone.shared_client.post(path, headers=evil, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in refused.headers


def test_a_link_to_the_page_may_be_followed_and_a_frame_not(alone: DaemonProcess) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    followed = alone.shared_client.get("/", headers=headers | {"Sec-Fetch-Dest": "document"})
    assert followed.status_code == 200
    assert "frame-ancestors 'none'" in followed.headers["content-security-policy"]
    framed = alone.shared_client.get("/", headers=headers | {"Sec-Fetch-Dest": "iframe"})
    assert framed.status_code == 403


def test_missing_features_are_listed_with_installation_hints(page: DaemonProcess) -> None:
    missing = state(page.shared_client)["missing"]
    assert isinstance(missing, dict)
    assert "speak" not in missing
    assert "stepaudioctl models pull step-audio-editx" in missing["clone"]["step-audio-editx"]


@pytest.mark.parametrize("path", ["/page/../routes.py", "/page/%2e%2e/routes.py", "/assets/../index.html"])
def test_only_the_pages_own_files_are_served(page: DaemonProcess, path: str) -> None:
    assert page.shared_client.get(path).status_code == 404


def test_gradios_server_is_not_reachable(page: DaemonProcess) -> None:
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/heartbeat/x", "/config"):
        assert page.shared_client.get(path).status_code == 404
        assert page.shared_client.post(path).status_code == 404


class Watcher:
    """A client of the event stream, in a thread."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.events: list[dict[str, object]] = []
        self.has_begun = threading.Event()
        self._daemon = daemon
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        assert self.has_begun.wait(30)

    def _watch(self) -> None:
        try:
            with self._daemon.client() as client, client.stream("GET", "/page/watch") as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.events.append(json.loads(line.removeprefix("data: ")))
                        self.has_begun.set()
        except httpx.RemoteProtocolError:
            pass  # the daemon has gone


@pytest.mark.slow
def test_a_watcher_gets_events_and_does_not_keep_the_daemon_awake(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 2})
    watcher = Watcher(daemon)
    with daemon.client() as client:
        speech = {"model": "tts-1", "voice": "alloy", "input": LONG, "response_format": "pcm"}
        spoken = client.post("/v1/audio/speech", json=speech)
    assert len(spoken.content) > 48_000 * 60
    assert daemon.wait() == 0
    watcher.thread.join(30)
    assert not watcher.thread.is_alive()
    assert any(event["daemon"]["active"] for event in watcher.events)  # type: ignore[index]
    assert not watcher.events[-1]["daemon"]["active"]  # type: ignore[index]
    assert watcher.events[0]["choice"] == {"engine": "hibari", "setting": "hibari", "passed_over": []}
    assert "Traceback" not in daemon.log()


def test_watchers_do_not_delay_a_stop(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"timeouts.drain": 600})
    watchers = [Watcher(daemon) for _ in range(3)]
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    for watcher in watchers:
        watcher.thread.join(30)
        assert not watcher.thread.is_alive()
    assert "Traceback" not in daemon.log()


@pytest.mark.slow
def test_every_tab_gets_every_change(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 3})
    watchers = [Watcher(daemon) for _ in range(3)]
    with daemon.client() as client:
        for count in (1, 2):
            speech = {"model": "tts-1", "voice": "alloy", "input": "One.", "response_format": "pcm"}
            assert client.post("/v1/audio/speech", json=speech).status_code == 200
            watchers.append(Watcher(daemon))
            assert watchers[-1].events[0]["daemon"]["requests"]["served"] == count  # type: ignore[index]
    assert daemon.wait() == 0
    for watcher in watchers:
        watcher.thread.join(30)
        assert watcher.events[-1]["daemon"]["requests"]["served"] == 2  # type: ignore[index]
        assert any(event["hibari"]["loaded"] for event in watcher.events)  # type: ignore[index]


def test_a_tab_that_is_closed_and_opened_again_costs_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon({"idle_timeout": 3})
    with daemon.client() as client:
        for _ in range(3):
            with client.stream("GET", "/page/watch") as answer:
                assert next(answer.iter_lines()).startswith("data: ")
            assert client.get("/healthz").status_code == 200
    last = Watcher(daemon)
    assert daemon.wait() == 0
    last.thread.join(30)
    assert len(last.events) < 10, "events without a change"


def test_a_request_behind_the_stream_of_a_tab_does_not_keep_the_daemon_awake(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon({"idle_timeout": 1, "timeouts.header": 600})
    request = b"GET /page/watch HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(daemon.address, 30) as tab:
        tab.sendall(request)
        while b"data: " not in tab.recv(65536):
            pass
        tab.sendall(request * 4000)  # more than the front reads ahead
        assert daemon.wait() == 0


def test_every_error_has_a_chinese_sentence() -> None:
    words = json.loads((files("stepaudiod.web.page") / "words.json").read_text(encoding="utf-8"))
    assert {kind.code for kind in STATUSES} <= words["zh"]["errors"].keys()
