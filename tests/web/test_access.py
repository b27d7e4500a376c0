"""Access control: names, origins and keys, as an attacker would try them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon

SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav"}
KEY = "sk-stepaudio-" + "k" * 43
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
FRIEND = "https://friend.example"


@pytest.fixture(scope="module")
def local(start_module_daemon: StartDaemon) -> DaemonProcess:
    """A daemon on loopback, with a host name and an allowed origin."""
    settings = {"access.hosts": '["Speech.example", "192.0.2.7"]', "access.origins": f'["{FRIEND}"]'}
    return start_module_daemon(settings)


def open_to_the_network(folder: Path) -> list[tuple[str, socket.socket]]:
    """A socket on every address, which counts as the network although the tests use loopback."""
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.bind(str(folder / "sock"))
    unix.listen()
    return [("http", socket.create_server(("0.0.0.0", 0))), ("http", unix)]


@pytest.fixture
def exposed(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    """A daemon reachable from the network, with one key."""
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\nlaptop:{DIGEST}  # mine\n\nother:{'0' * 64}\n")
    return start_daemon({"access.keys_file": keys}, listeners=open_to_the_network(tmp_path))


def ask(daemon: DaemonProcess, head: str, version: str = "1.1") -> tuple[int, dict[str, str], bytes]:
    """A raw request: `head` is the request line up to the version, then headers."""
    line, *headers = head.split("\n")
    text = "\r\n".join([f"{line} HTTP/{version}", *headers, "Connection: close", "", ""])
    with socket.create_connection(("127.0.0.1", daemon.address[1]), timeout=DEADLINE_S) as connection:
        connection.sendall(text.encode("latin-1"))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    top, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    return int(status.split()[1]), dict(each.lower().split(": ", 1) for each in lines), body


def code(body: bytes) -> str:
    """The code of an error, which has all four fields."""
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


# ---- the name


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "localhost:1", "localhost:", "127.0.0.1:7860",
     "[::1]:7860", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "speech.example",
     "SPEECH.EXAMPLE.:80", "192.0.2.7:1"],
)  # fmt: skip
def test_our_names_are_answered(local: DaemonProcess, host: str) -> None:
    assert ask(local, f"GET /healthz\nHost: {host}")[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example",
     "evil.example#localhost", "localhost@evil.example", "localhost:80@evil.example",
     "localhost,evil.example", "localhost evil.example", "localhost/", "[::1", "::1",
     "[::1]evil.example", "localhost:7860:80", "localhost:port", "0.0.0.0", "[::]", "127.1",
     "2130706433", "0x7f.0.0.1", "127.0.0.2", "xlocalhost", "local%68ost", '"localhost"', "", "..",
     "[]"],
)  # fmt: skip
def test_dns_rebinding_is_refused(local: DaemonProcess, host: str) -> None:
    status, _, body = ask(local, f"GET /v1/models\nHost: {host}")
    assert (status, code(body)) == (421, "host_not_allowed")
    assert "access.hosts" in json.loads(body)["error"]["message"]


def test_the_refusal_holds_for_every_path_and_method(local: DaemonProcess) -> None:
    for head in (
        "GET /",
        "GET /healthz",
        "GET /metrics",
        "POST /v1/audio/speech",
        "OPTIONS /",
        "GET /nowhere",
    ):
        assert ask(local, f"{head}\nHost: evil.example")[0] == 421


def test_a_request_with_two_host_headers_is_refused(local: DaemonProcess) -> None:
    assert ask(local, "GET /healthz\nHost: localhost\nHost: evil.example")[0] == 400


def test_a_request_without_a_host_is_refused(local: DaemonProcess) -> None:
    assert ask(local, "GET /healthz", version="1.0")[0] == 421
    assert ask(local, "GET /healthz\nHost: localhost", version="1.0")[0] == 200


def test_an_absolute_target_overrides_the_host_header(local: DaemonProcess) -> None:
    assert ask(local, "GET http://evil.example/healthz\nHost: localhost")[0] == 421
    assert ask(local, "GET HTTP://evil.example/healthz\nHost: localhost")[0] == 421
    assert ask(local, "GET http://localhost@evil.example/healthz\nHost: localhost")[0] == 421
    assert ask(local, "GET http:///healthz\nHost: evil.example")[0] == 421
    assert ask(local, "GET http://[/healthz\nHost: localhost")[0] == 421
    assert ask(local, "GET http://localhost:7860/healthz?x=1\nHost: evil.example")[0] == 200


def test_the_unix_socket_needs_no_host(local: DaemonProcess) -> None:
    transport = httpx.HTTPTransport(uds=local.unix_path)
    with httpx.Client(base_url="http://whatever.example", transport=transport) as client:
        assert client.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 200


# ---- the page that asks


@pytest.mark.parametrize(
    "headers",
    [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://localhost:3000",
        "Origin: http://localhost:7860.evil.example",
        "Origin: https://friend.example.evil.example",
        "Origin: https://friend.example:444",
        "Origin: http://friend.example",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe",
        "Sec-Fetch-Site: cross-site\nOrigin: http://localhost:7860",
        "Origin: http://localhost:7860\nOrigin: https://evil.example",
        "Origin: https://friend.example\nOrigin: https://evil.example",
    ],
)
def test_pages_of_other_sites_are_refused(local: DaemonProcess, headers: str) -> None:
    for line in ("POST /v1/audio/speech", "POST /api/v1/models/hibari/unload", "GET /v1/models"):
        status, said, body = ask(local, f"{line}\nHost: localhost:7860\n{headers}\nContent-Length: 0")
        assert (status, code(body)) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in said


def test_a_form_of_another_site_is_refused_although_it_follows_a_link(local: DaemonProcess) -> None:
    form = "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\nContent-Length: 0"
    assert ask(local, f"POST /api/v1/models/hibari/unload\nHost: localhost\n{form}")[0] == 403
    assert ask(local, f"GET /\nHost: localhost\n{form}")[0] == 200


@pytest.mark.parametrize("site", ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Accept: */*"])
def test_the_own_page_may_call(local: DaemonProcess, site: str) -> None:
    head = f"GET /v1/models\nHost: localhost:7860\nOrigin: http://localhost:7860\n{site}"
    assert ask(local, head)[0] == 200


def test_an_allowed_origin_may_call_and_read(local: DaemonProcess) -> None:
    with local.client() as client:
        headers = {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"}
        response = client.post("/v1/audio/speech", json=SAY, headers=headers)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == FRIEND
        assert "Origin" in response.headers["vary"]
        assert "x-stepaudio-model" in response.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in response.headers


def test_preflight_requests_succeed_for_allowed_origins_only(local: DaemonProcess) -> None:
    asked = "Access-Control-Request-Method: POST\nAccess-Control-Request-Headers: authorization,content-type"
    status, said, body = ask(local, f"OPTIONS /v1/audio/speech\nHost: localhost\nOrigin: {FRIEND}\n{asked}")
    assert (status, body) == (204, b"")
    assert said["access-control-allow-origin"] == FRIEND
    assert said["access-control-allow-headers"] == "authorization,content-type"
    assert "post" in said["access-control-allow-methods"]
    status, said, _ = ask(
        local, f"OPTIONS /v1/audio/speech\nHost: localhost\nOrigin: https://evil.example\n{asked}"
    )
    assert status == 403
    assert not [name for name in said if name.startswith("access-control")]


# ---- the key


def test_a_socket_that_the_network_reaches_needs_a_key(exposed: DaemonProcess) -> None:
    with exposed.client() as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/", "/v1/models", "/metrics", "/readyz", "/api/v1/models/status", "/nowhere"):
            response = client.get(path)
            assert response.status_code == 401, path
            assert code(response.content) == "invalid_api_key"
            assert response.headers["www-authenticate"] == 'Bearer realm="stepaudiod"'
        assert client.post("/v1/audio/speech", json=SAY).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        good = client.post("/v1/audio/speech", json=SAY, headers={"Authorization": f"bearer {KEY}"})
        assert good.content[:4] == b"RIFF"
    assert KEY not in exposed.log()
    assert "laptop" in exposed.log()


@pytest.mark.parametrize(
    "value",
    ["Bearer", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer {DIGEST}", KEY, f"Token {KEY}",
     "Bearer laptop", "Basic !!!", f"Basic {base64.b64encode(KEY.encode()).decode()}"],
)  # fmt: skip
def test_wrong_keys_are_refused(exposed: DaemonProcess, value: str) -> None:
    with exposed.client() as client:
        response = client.get(
            "/v1/models", headers={"Authorization": value.encode("latin-1").decode("latin-1")}
        )
    assert (response.status_code, code(response.content)) == (401, "invalid_api_key")


def test_keys_that_are_no_text_are_refused(exposed: DaemonProcess) -> None:
    for value in ("Bearer \xe9", "Basic \xe9", "Basic 6Q=="):
        head = f"GET /v1/models\nHost: localhost\nAuthorization: {value}"
        assert ask(exposed, head)[0] == 401


def test_a_browser_is_asked_for_the_key_as_a_password(exposed: DaemonProcess) -> None:
    with exposed.client() as client:
        response = client.get("/", headers={"Accept": "text/html,*/*"})
        assert (response.status_code, response.headers["www-authenticate"]) == (
            401,
            'Basic realm="stepaudiod"',
        )
        assert client.get("/", auth=("anybody", KEY)).status_code == 200
        assert client.get("/", auth=("laptop", "guess")).status_code == 401


def test_the_unix_socket_needs_no_key(exposed: DaemonProcess) -> None:
    with exposed.client_of(exposed.listeners[1][1]) as client:
        assert client.get("/v1/models").status_code == 200


def test_an_allowed_origin_can_read_that_it_needs_a_key(start_daemon: StartDaemon, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"laptop:{DIGEST}\n")
    settings = {"access.keys_file": keys, "access.origins": f'["{FRIEND}"]', "access.auth": "keys"}
    daemon = start_daemon(settings)
    with daemon.client() as client:
        response = client.get("/v1/models", headers={"Origin": FRIEND})
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == FRIEND
        asked = {"Origin": FRIEND, "Access-Control-Request-Method": "GET"}
        assert client.options("/v1/models", headers=asked).status_code == 204


@pytest.mark.parametrize("text", [None, "", "# no key yet\n", "laptop:1234\n", f"a:{DIGEST}\na:{DIGEST}\n"])
def test_without_a_usable_key_no_request_is_served(
    start_daemon: StartDaemon, tmp_path: Path, text: str | None
) -> None:
    keys = tmp_path / "keys"
    if text is not None:
        keys.write_text(text)
    daemon = start_daemon({"access.keys_file": keys}, listeners=open_to_the_network(tmp_path))
    with daemon.client() as client:
        response = client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
        assert (response.status_code, code(response.content)) == (503, "config_invalid")
        assert "stepaudioctl keys add" in response.json()["error"]["message"]
        assert str(keys) not in response.text
        assert client.get("/healthz").status_code == 200
    assert "keys" in daemon.log()


def test_a_reload_takes_a_new_key(start_daemon: StartDaemon, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    daemon = start_daemon({"access.keys_file": keys}, listeners=open_to_the_network(tmp_path))
    keys.write_text(f"laptop:{DIGEST}\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notify.wait_for("READY=1", count=2)
    with daemon.client() as client:
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_credential_of_systemd_is_taken(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "api-keys").write_text(f"laptop:{DIGEST}\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    daemon = start_daemon({"access.auth": "keys"}, environ=environ)
    with daemon.client() as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_keys_can_be_disabled_explicitly(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon({"access.auth": "none"}, listeners=open_to_the_network(tmp_path))
    assert ask(daemon, "GET /v1/models\nHost: localhost")[0] == 200
    assert ask(daemon, "GET /v1/models\nHost: evil.example")[0] == 421
    assert "every client that reaches" in daemon.log()


@pytest.mark.parametrize(
    ("family", "address", "needs_key"),
    [
        (socket.AF_INET, "127.0.0.2", False),
        (socket.AF_INET6, "::1", False),
        (socket.AF_INET6, "::ffff:127.0.0.1", False),
        (socket.AF_INET6, "::", True),
    ],
)
def test_the_address_a_socket_is_bound_to_decides(
    start_daemon: StartDaemon, family: int, address: str, needs_key: bool
) -> None:
    listener = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((address, 0))
    listener.listen()
    daemon = start_daemon({"access.keys_file": "/nowhere"}, listeners=[("http", listener)])
    called = "::1" if address == "::" else address
    url = f"http://{f'[{called}]' if ':' in called else called}:{listener.getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
        assert client.get("/v1/models").status_code == (503 if needs_key else 200)
    assert daemon.process.poll() is None


def test_configuration_errors_are_not_shown_to_the_network(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon({"threads": "secret"}, listeners=open_to_the_network(tmp_path))
    status, _, body = ask(daemon, "GET /v1/models\nHost: localhost")
    assert (status, code(body)) == (503, "config_invalid")
    assert b"secret" not in body
    assert "secret" in daemon.log()
    assert os.path.exists(daemon.unix_path)
