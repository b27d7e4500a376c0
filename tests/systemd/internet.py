"""A simulated internet with one server, connected to a machine.

    with Internet.beside(machine.leader) as internet:
        internet.files["/a.wav"] = recording
        machine.request("POST", ..., json={"url": internet.url("/a.wav")})

Its addresses are public ones, since a daemon fetches from nowhere else. They exist in two network namespaces
only, so the real ones aren't touched.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.systemd.network import Network

SERVER, CLIENT = "1.2.3.1", "1.2.3.2"
PORT = 80


class Internet:
    """The server."""

    def __init__(self, network: Network) -> None:
        self.files: dict[str, bytes] = {}
        """What it has, by path."""
        self.redirects: dict[str, str] = {}
        """The addresses that these names resolve to."""
        self.asked: list[str] = []
        """The paths that it was asked for."""
        self._server = ThreadingHTTPServer((SERVER, PORT), self._handler(), bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = network.listen((SERVER, PORT))
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @classmethod
    @contextlib.contextmanager
    def beside(cls, leader: int) -> Iterator[Internet]:
        """Connect this to the network of that process."""
        command = [
            "setpriv",
            "--pdeathsig=KILL",
            "unshare",
            "--net",
            "sh",
            "-c",
            "echo here; exec sleep infinity",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as place:
            try:
                assert place.stdout is not None
                place.stdout.readline()
                _run(place.pid, f"ip link add cable type veth peer name cable netns {leader}")
                for pid, address in ((place.pid, SERVER), (leader, CLIENT)):
                    _run(pid, f"ip address add {address}/24 dev cable")
                    _run(pid, "ip link set cable up")
                with (
                    contextlib.closing(Network(place.pid)) as network,
                    contextlib.closing(cls(network)) as made,
                ):
                    yield made
            finally:
                place.kill()  # the cable goes with its end

    def url(self, path: str) -> str:
        return f"http://{SERVER}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        internet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                internet.asked.append(self.path)
                body = internet.files.get(self.path, b"")
                target = internet.redirects.get(self.path)
                self.send_response(302 if target else 200 if body else 404)
                self.send_header("Content-Type", "audio/wav")
                self.send_header("Content-Length", str(len(body)))
                if target:
                    self.send_header("Location", target)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _run(pid: int, command: str) -> None:
    subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", *command.split()], check=True)
