"""Server-side request forgery: URLs of the machine or its network, in every disguise."""

from __future__ import annotations

import socket

from tests.activation import DEADLINE_S
from tests.attack.conftest import Tally
from tests.conftest import StartDaemon

HOSTS = (
    "127.0.0.1",
    "127.1",
    "127.0.0.2",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST.",
    "localhost.localdomain",
    "ip6-localhost",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1]",
    "[fc00::1]",
    "[ff02::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "xn--.example",
    "xn--a",
    "a" * 64 + ".example",
)
FORMS = (
    "http://{host}:{port}/a.wav",
    "https://{host}:{port}/a.wav",
    "//{host}:{port}/a.wav",
    "http://user:pass@{host}:{port}/a.wav",
    "http://sound.invalid@{host}:{port}/a.wav",
    "http://{host}:{port}#@sound.invalid/a.wav",
    "http:\\\\{host}:{port}\\a.wav",
    "http://{host}:{port}\t/a.wav",
)
WHOLE = (
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "/etc/passwd",
    "gopher://127.0.0.1:{port}/_x",
    "ftp://127.0.0.1:{port}/a.wav",
    "dict://127.0.0.1:{port}/x",
    "data:audio/wav;base64,UklGRg==",
    "concat:/etc/passwd",
    "http://",
    "http://:{port}/",
    "http://sound.invalid:22/",
    "http://sound.invalid:25/",
    "http://sound.invalid:99999/",
    "http://[::1",
    "http://\x00/",
)


def test_no_url_reaches_this_machine_or_its_network(start_daemon: StartDaemon, tally: Tally) -> None:
    daemon = start_daemon({"allow_url_fetch": "true", "timeouts.fetch": 5})
    with socket.create_server(("127.0.0.1", 0)) as inside:
        port = inside.getsockname()[1]
        urls = [form.format(host=host, port=port) for form in FORMS for host in HOSTS]
        urls += [whole.format(port=port) for whole in WHOLE]
        with daemon.client() as client:
            refused = [
                url
                for url in urls
                if client.post(
                    "/v1/audio/speech",
                    json={"input": "x", "step_audio": {"mode": "vad", "input_audio_url": url}},
                    timeout=DEADLINE_S,
                ).status_code
                == 400
            ]
        inside.setblocking(False)
        is_reached = True
        try:
            inside.accept()[0].close()
        except BlockingIOError:
            is_reached = False
    tally("URLs into the machine or its network", len(urls), len(refused))
    assert not is_reached
    assert [url for url in urls if url not in refused] == []
