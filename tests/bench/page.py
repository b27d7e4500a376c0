"""From a sleeping daemon to its page: `python -m tests.bench.page [RUNS]`.

Times the light page's first byte, then the real page as the light one waits for it: made for the first time,
and kept from before. In Chromium it counts from the address to a page that can be used. Meanwhile somebody
asks for /healthz twenty times a second.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.measure import first_byte_of_body, machine, request, sleeping_daemon, spread
from tests.browser.browser import Browser

LOOK_S = 0.2
"""How often the light page asks whether the real one is there."""
ASK_S = 0.05


def get(port: int, path: str) -> tuple[float, bytes]:
    """Seconds to the first byte of the body, and the whole response."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request(path))
        answer = first_byte_of_body(connection)
        seconds = time.perf_counter() - started
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return seconds, answer


@contextmanager
def asked_for_health(port: int, answered: list[float]) -> Iterator[None]:
    """A health check, on a new connection each time."""
    has_ended = threading.Event()

    def ask() -> None:
        while not has_ended.wait(ASK_S):
            answered.append(get(port, "/healthz")[0])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def over_http(cache: Path, health: list[float]) -> tuple[float, float]:
    """Seconds to the first byte, and to the whole page."""
    with sleeping_daemon([f"cache_dir={cache}"]) as (port, _):
        started = time.perf_counter()
        first, page = get(port, "/")
        with asked_for_health(port, health):
            while b"window.gradio_config" not in page:
                while not json.loads(get(port, "/page/state")[1].partition(b"\r\n\r\n")[2])["ready"]:
                    time.sleep(LOOK_S)
                page = get(port, "/")[1]
            return first, time.perf_counter() - started


def in_chromium(cache: Path, health: list[float]) -> float:
    """Seconds until the page is usable."""
    with sleeping_daemon([f"cache_dir={cache}"]) as (port, _), tempfile.TemporaryDirectory() as folder:
        browser = Browser(Path(folder), f"http://127.0.0.1:{port}")
        try:
            started = time.perf_counter()
            asked: list[float] = []
            with asked_for_health(port, asked):
                browser.open()
                seconds = time.perf_counter() - started
            health += asked[1:]  # the first one waits for the daemon to start
            return seconds
        finally:
            browser.close()


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(machine())
    light: list[float] = []
    health: list[float] = []
    real: dict[str, list[float]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            for what in ("made", "kept"):
                first, whole = over_http(cache, health)
                real.setdefault(what, []).append(whole)
                light += [first] if what == "made" else []
            shutil.rmtree(cache / "page")
            for what in ("made, in Chromium", "kept, in Chromium"):
                real.setdefault(what, []).append(in_chromium(cache, health))
    print(f"asleep → first byte of the light page: {spread(light)}")
    for what, values in real.items():
        print(f"asleep → the real page, {what + ':':19} {spread(values)}")
    print(f"/healthz meanwhile:                    {spread([1000 * each for each in health], 'ms', 1)}")


if __name__ == "__main__":
    main()
