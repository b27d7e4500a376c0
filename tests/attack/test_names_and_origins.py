"""DNS rebinding and cross-site requests: every wrong name and origin, on every kind of path."""

from __future__ import annotations

from itertools import product

import pytest

from tests.activation import DaemonProcess
from tests.attack.conftest import Tally
from tests.web.test_access import ask

REQUESTS = (
    "GET /",
    "GET /healthz",
    "GET /v1/models",
    "GET /metrics",
    "POST /v1/audio/speech",
    "POST /v1/audio/transcriptions",
    "POST /api/v1/models/hibari/unload",
    "DELETE /v1/audio/voices/x",
)
FALSE_NAMES = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example:7860",
    "evil.example#localhost",
    "localhost@evil.example",
    "localhost:80@evil.example",
    "localhost,evil.example",
    "localhost evil.example",
    "[::1]evil.example",
    "::1",
    "[::1",
    "0.0.0.0",
    "[::]",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
    "xn--.example",
    "xn--lcalhost-3eb",
    "local%68ost",
    "",
    "..",
)
FALSE_ORIGINS = (
    "Origin: https://evil.example",
    "Origin: null",
    "Origin: file://",
    "Origin: http://localhost:3000",
    "Origin: http://localhost.evil.example",
    "Origin: http://localhost:7860@evil.example",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
    "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe",
    "Sec-Fetch-Site: cross-site\nOrigin: http://localhost:7860",
)


@pytest.mark.parametrize(
    ("name", "statuses", "heads"),
    [
        ("false host names", (400, 421), [f"Host: {each}" for each in FALSE_NAMES]),
        ("requests of pages of other sites", (403,), [f"Host: localhost\n{each}" for each in FALSE_ORIGINS]),
    ],
)
def test_no_page_of_another_site_is_answered(
    daemon: DaemonProcess, tally: Tally, name: str, statuses: tuple[int, ...], heads: list[str]
) -> None:
    answers = [
        ask(daemon, f"{request}\n{head}\nContent-Length: 0") for request, head in product(REQUESTS, heads)
    ]
    held = sum(
        status in statuses and "access-control-allow-origin" not in headers for status, headers, _ in answers
    )
    tally(name, len(answers), held)
    assert held == len(answers)
