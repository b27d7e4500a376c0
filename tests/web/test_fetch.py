"""Recordings behind URLs, with a local server: what is fetched, and every attack that is blocked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stepaudiod.errors import InvalidRequest, TooLarge
from stepaudiod.web import fetch
from stepaudiod.web.fetch import Fetcher, is_public

OUTSIDE, INSIDE = "127.0.0.2", "127.0.0.1"
"""The machine's own addresses play the internet and what must not be reached."""

Answer = Callable[[BaseHTTPRequestHandler], None]


class Handler(BaseHTTPRequestHandler):
    """Responds as configured, and stores the requests."""

    protocol_version = "HTTP/1.1"
    answers: dict[str, Answer]
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        server = str(self.connection.getsockname()[0])
        self.seen.append({"path": self.path, "server": server} | dict(self.headers))
        self.answers[self.path](self)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Site:
    """A server on both addresses, with one port."""

    def __init__(self) -> None:
        self.handler: type[Handler] = type("SiteHandler", (Handler,), {"answers": {}, "seen": []})
        self.servers = [ThreadingHTTPServer((OUTSIDE, 0), self.handler)]
        self.port = self.servers[0].server_address[1]
        self.servers.append(ThreadingHTTPServer((INSIDE, self.port), self.handler))
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def seen(self) -> list[dict[str, str]]:
        return self.handler.seen

    def url(self, path: str = "/a.wav", host: str = "sound.example") -> str:
        return f"http://{host}:{self.port}{path}"

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    with contextlib.closing(Site()) as made:
        yield made


def send(
    body: bytes = b"RIFF" * 100, kind: str | None = "audio/wav", status: int = 200, **headers: str
) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if kind is not None:
            handler.send_header("Content-Type", kind)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(body)

    return answer


def redirect(to: str) -> Answer:
    return send(b"", None, 302, Location=to)


def names(**hosts: str | list[str]) -> fetch.Resolve:
    """A resolver of these names and addresses, with underscores for dots."""
    table = {host.replace("_", "."): found for host, found in hosts.items()}

    async def resolve(host: str, port: int) -> list[str]:
        found = table.get(host)
        if found is None:
            return await fetch.resolve(host, port)
        return [found] if isinstance(found, str) else found

    return resolve


def get(url: str, folder: Path, max_bytes: int = 10_000, max_seconds: float = 20, **more: object) -> bytes:
    """Fetch with only `OUTSIDE` as a public address."""
    options = {"resolve": names(sound_example=OUTSIDE), "is_public": lambda address: address == OUTSIDE}
    fetcher = Fetcher(max_bytes, max_seconds, **options | more)  # type: ignore[arg-type]
    target = folder / "target"
    asyncio.run(fetcher.fetch(url, target, "the_url"))
    return target.read_bytes()


def refused(folder: Path, url: str, *words: str, **more: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        get(url, folder, **more)  # type: ignore[arg-type]
    assert raised.value.param == "the_url"
    for word in words:
        assert word in raised.value.message


@pytest.mark.parametrize(
    "kind", ["audio/wav", "audio/mpeg; x=y", "VIDEO/MP4", "application/octet-stream", "binary/octet-stream"]
)
def test_a_recording_is_fetched_from_the_address_that_was_checked(
    site: Site, tmp_path: Path, kind: str
) -> None:
    site.handler.answers["/a.wav?x=1"] = send(kind=kind)
    assert get(site.url("/a.wav?x=1"), tmp_path) == b"RIFF" * 100
    (seen,) = site.seen
    assert seen["server"] == OUTSIDE
    assert seen["Host"] == f"sound.example:{site.port}"
    assert seen["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization"} & set(seen)


def test_no_proxy_of_the_environment_is_asked(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{INSIDE}:{site.port}")
    site.handler.answers["/a.wav"] = send()
    get(site.url(), tmp_path)
    assert [each["server"] for each in site.seen] == [OUTSIDE]


def test_redirects_are_followed_three_times(site: Site, tmp_path: Path) -> None:
    answers = site.handler.answers
    answers |= {f"/{n}": redirect(f"/{n - 1}") for n in range(1, 5)}
    answers["/0"] = send()
    assert get(site.url("/3"), tmp_path) == b"RIFF" * 100
    refused(tmp_path, site.url("/4"), "more than 3 times")


@pytest.mark.parametrize(
    "to",
    [
        "http://inside.example:{port}/secret",
        f"http://{INSIDE}:{{port}}/secret",
        f"//{INSIDE}:{{port}}/secret",
        "http://localhost:{port}/secret",
        "http://2130706433:{port}/secret",
        "file:///etc/passwd",
        "gopher://sound.example/",
        "",
    ],
)
def test_a_redirect_is_checked_like_the_first_url(site: Site, tmp_path: Path, to: str) -> None:
    answers = site.handler.answers
    answers["/a.wav"], answers["/secret"] = redirect(to.format(port=site.port)), send()
    refused(tmp_path, site.url(), resolve=names(sound_example=OUTSIDE, inside_example=INSIDE))
    assert "/secret" not in {each["path"] for each in site.seen}


def test_a_changed_dns_answer_is_not_used(site: Site, tmp_path: Path) -> None:
    asked = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return [INSIDE if len(asked) > 1 else OUTSIDE]

    site.handler.answers["/a.wav"] = send()
    get(site.url(), tmp_path, resolve=rebinding)
    assert asked == ["sound.example"]
    assert [each["server"] for each in site.seen] == [OUTSIDE]


@pytest.mark.parametrize("found", [[INSIDE], [OUTSIDE, INSIDE], []])
def test_a_host_with_one_private_address_is_refused(site: Site, tmp_path: Path, found: list[str]) -> None:
    refused(tmp_path, site.url(), "sound.example", resolve=names(sound_example=found))
    assert site.seen == []


HOSTS_INSIDE = [
    "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "localhost", "0.0.0.0", "0",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[fe80::1]", "[fd00::1]", "169.254.169.254", "[::ffff:169.254.169.254]", "10.0.0.1",
    "100.64.0.1", "0177.0.0.1", "127.0.0.1.", "%31%32%37.0.0.1", "\uff11\uff12\uff17.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS_INSIDE)
def test_no_spelling_of_a_private_address_passes(site: Site, tmp_path: Path, host: str) -> None:
    site.handler.answers["/a.wav"] = send()
    for url in (site.url(host=host), f"http://{host}/a.wav"):
        refused(tmp_path, url, resolve=fetch.resolve, is_public=is_public)
    assert site.seen == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254",
        "100.64.0.1", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1",
        "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:8.8.8.8",
        "::8.8.8.8", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
        "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1",
        "not an address",
    ],
)  # fmt: skip
def test_what_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1"])
def test_what_is_public(address: str) -> None:
    assert is_public(address)


def test_the_machines_own_address_is_known_whatever_it_is() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        own = probe.getsockname()[0]
    assert fetch.is_our_own(own)
    assert not fetch.is_our_own("1.1.1.1")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("file:///etc/passwd", "http"),
        ("gopher://sound.example/", "http"),
        ("ftp://sound.example/a.wav", "http"),
        ("data:audio/wav;base64,AAAA", "http"),
        ("/etc/passwd", "http"),
        ("http://", "host"),
        ("http:///a.wav", "host"),
        ("http://me:secret@sound.example/", "password"),
        ("http://sound.example:22/", "port 22"),
        ("http://sound.example:25/", "port 25"),
        ("http://sound.example:0/", "port 0"),
        ("http://sound.example:99999/", "port 99999"),
        ("http://sound.example/a\r\nHost: inside", "read"),
        ("http://[::1/", "read"),
        ("http://xn--a/a.wav", "read"),
        ("http://xn--.example/a.wav", "read"),
        ("http://" + "a." * 200 + "example/", ""),
    ],
)
def test_urls_of_another_kind_are_refused(tmp_path: Path, url: str, word: str) -> None:
    refused(tmp_path, url, word)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (send(kind="text/html"), "text/html"),
        (send(kind=None), "audio/*"),
        (send(kind="audio\t/wav, text/html"), "audio/*"),
        (send(status=404), "404"),
        (send(status=206), "206"),
        (send(status=304), "304"),
        (send(Content_Encoding="gzip"), "compresses"),
        (send(Content_Length="1000"), "broke off"),
    ],
)
def test_invalid_recordings_are_refused(site: Site, tmp_path: Path, answer: Answer, word: str) -> None:
    def once(handler: BaseHTTPRequestHandler) -> None:
        answer(handler)
        handler.close_connection = True

    site.handler.answers["/a.wav"] = once
    refused(tmp_path, site.url(), word)


def test_too_large_recordings_are_refused_whatever_the_content_length(site: Site, tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "audio/wav")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")

    site.handler.answers |= {"/endless": endless, "/long": send(bytes(10_001)), "/fits": send(bytes(10_000))}
    assert len(get(site.url("/fits"), tmp_path)) == 10_000
    for path in ("/endless", "/long"):
        with pytest.raises(TooLarge, match=r"limits\.max_upload") as raised:
            get(site.url(path), tmp_path)
        assert raised.value.param == "the_url"
        assert (tmp_path / "target").stat().st_size <= 10_000


def test_a_slow_server_is_cut_off_at_the_deadline(site: Site, tmp_path: Path) -> None:
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "audio/wav")
        handler.send_header("Content-Length", "10000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not over.wait(0.02):
                handler.wfile.write(b"x")

    site.handler.answers["/a.wav"] = drip
    refused(tmp_path, site.url(), "0.3 s", "timeouts.fetch", max_seconds=0.3)
    over.set()


def test_a_hanging_resolver_is_cut_off_at_the_deadline(tmp_path: Path) -> None:
    async def hang(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    refused(tmp_path, "http://sound.example/", "timeouts.fetch", resolve=hang, max_seconds=0.05)


def test_an_unreachable_server_is_named(tmp_path: Path) -> None:
    with socket.create_server((OUTSIDE, 0)) as taken:
        port = taken.getsockname()[1]
    refused(tmp_path, f"http://sound.example:{port}/", "can't be reached")


def test_a_server_without_a_certificate_is_not_taken_for_one_with(site: Site, tmp_path: Path) -> None:
    site.handler.answers["/a.wav"] = send()
    refused(tmp_path, site.url().replace("http:", "https:"), "can't be reached")
    assert site.seen == []


def test_a_system_that_forbids_to_connect_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    refused(tmp_path, "http://sound.example/", "doesn't let the daemon connect", "drop-in")
