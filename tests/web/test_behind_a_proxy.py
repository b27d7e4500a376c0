"""The page and the API behind a proxy that strips a path prefix, as at https://host/tts/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx
import openai
import pytest

from stepaudiod.web.page.routes import HERE
from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon
from tests.proxy import PREFIX, Proxy, proxied
from tests.web.test_page import state, wait_until

ABSOLUTE = re.compile(r"""["'`(]/(?![/*$ ])[a-z]""")
"""Something that begins as an absolute path does, in HTML, CSS or JavaScript."""


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon) -> DaemonProcess:
    return start_module_daemon()


@pytest.fixture(scope="module")
def proxy(awake: DaemonProcess) -> Iterator[Proxy]:
    with proxied(awake.address) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[httpx.Client]:
    proxy.strays.clear()
    with httpx.Client(timeout=DEADLINE_S, follow_redirects=True) as client:
        yield client
    assert proxy.strays == []


class Addresses(HTMLParser):
    """All URLs that a page loads or links to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag != "base":
            self.found += [value for name in ("href", "src", "action") if (value := given.get(name))]


@pytest.mark.parametrize("path", ["/", "/simple", "/docs"])
def test_all_that_a_page_loads_is_below_the_prefix(
    awake: DaemonProcess, client: httpx.Client, proxy: Proxy, path: str
) -> None:
    if path == "/":
        awake.shared_client.get("/").raise_for_status()
        wait_until(lambda: state(awake.shared_client)["ready"] is True)
    page = client.get(f"{proxy.url}{path}")
    assert page.status_code == 200
    addresses = {urljoin(str(page.url), each) for each in Addresses(page.text).found if each[0] != "#"}
    assert len(addresses) > (3 if path == "/" else -1)
    for address in addresses:
        assert address.startswith(f"{proxy.url}/"), address
        assert client.get(address).status_code == 200, address
    assert "stepaudiod.invalid" not in page.text


def test_the_document_names_the_server_below_the_prefix(client: httpx.Client, proxy: Proxy) -> None:
    """As generated clients read it: relative to the document's URL."""
    answer = client.get(f"{proxy.url}/openapi.json")
    (server,) = answer.json()["servers"]
    assert urljoin(str(answer.url), server["url"]).rstrip("/") == proxy.url


def test_no_script_of_ours_names_an_absolute_path() -> None:
    ours = [*HERE.glob("static/*.js"), *HERE.glob("static/*.css"), *HERE.glob("*.html")]
    found = {file.name: ABSOLUTE.findall(file.read_text()) for file in ours}
    assert {name: paths for name, paths in found.items() if paths} == {}


@pytest.mark.parametrize(
    ("asked", "reached"),
    [
        ("/redoc", "/docs"),
        ("/docs/", "/docs"),
        ("/simple/", "/simple"),
        ("/v1/audio/voices/?model=hibari", "/v1/audio/voices?model=hibari"),
        ("/v1/models/", "/v1/models/"),
        ("/v1/models/tts-1/", "/v1/models/tts-1/"),
        ("/page/main.js", "/page/main.js"),
    ],
)
def test_redirects_stay_below_the_prefix(
    client: httpx.Client, proxy: Proxy, asked: str, reached: str
) -> None:
    answer = client.get(f"{proxy.url}{asked}")
    assert answer.status_code == 200
    assert str(answer.url) == proxy.url + reached
    for step in answer.history:
        assert not step.headers["location"].startswith(("http:", "https:", "/"))


def test_a_trailing_slash_does_not_redirect_elsewhere(awake: DaemonProcess) -> None:
    with awake.client() as client:
        for path in ("/nothing/", "//", "//evil.example/", "/docs//", "/nothing", "/v1/voices/x/"):
            assert client.get(f"{awake.url}{path}").status_code == 404, path
        put = client.post("/v1/audio/speech/", content=b"{}")
        assert (put.status_code, put.headers["location"]) == (307, "../speech")


def test_the_official_client_works_through_the_proxy(proxy: Proxy) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="-", max_retries=0) as client:
        speech = client.audio.speech.create(model="tts-1", voice="alloy", input="Hi.", response_format="wav")
    assert speech.content.startswith(b"RIFF")
    assert f"POST {PREFIX}/v1/audio/speech" in proxy.passed


def test_a_proxy_is_told_not_to_hold_streams_back(client: httpx.Client, proxy: Proxy) -> None:
    say = {"model": "tts-1", "voice": "alloy", "input": "Hi."}
    for more in ({}, {"stream_format": "sse"}):
        answer = client.post(f"{proxy.url}/v1/audio/speech", json=say | more)
        assert answer.headers["x-accel-buffering"] == "no"
    with client.stream("GET", f"{proxy.url}/page/watch") as watching:
        assert watching.headers["x-accel-buffering"] == "no"
