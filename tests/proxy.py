"""A reverse proxy as nginx with `location /tts/ { proxy_pass http://daemon/; }`: it strips the prefix."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

PREFIX = "/tts"
OF_A_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "server", "date")


class Proxy(ThreadingHTTPServer):
    """The proxy, and the requests outside of its location."""

    daemon_threads = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.strays: list[str] = []
        self.passed: list[str] = []

    @property
    def url(self) -> str:
        """The daemon's address for the proxy's clients, without a trailing slash."""
        return f"http://127.0.0.1:{self.server_address[1]}{PREFIX}"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _hand_on(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.server.strays.append(self.path)
            self.send_error(404)
            return
        self.server.passed.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(*self.server.target, timeout=300)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path.removeprefix(PREFIX), body, headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in OF_A_CONNECTION:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while piece := answer.read1(65_536):
                self.wfile.write(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has gone, and so does the connection to the daemon
        finally:
            upstream.close()

    do_GET = do_POST = do_DELETE = do_HEAD = _hand_on

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests look at `passed` and `strays`."""


@contextmanager
def proxied(target: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy in front of a daemon."""
    proxy = Proxy(target)
    thread = Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
