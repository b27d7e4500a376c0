"""What each kind of socket serves, and the front's imports."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import StartDaemon

SAY = {"model": "tts-1", "voice": "alloy", "input": "Hello.", "response_format": "wav"}


def test_the_name_of_a_socket_decides_what_it_serves(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(roles=("http", "api", "page"))
    with daemon.client("http") as http, daemon.client("api") as api, daemon.client("page") as page:
        assert [c.get("/").status_code for c in (http, api, page)] == [200, 404, 200]
        assert [c.get("/healthz").status_code for c in (http, api, page)] == [200, 200, 200]
        assert [c.post("/v1/audio/speech", json=SAY).status_code for c in (http, api, page)] == [
            200,
            200,
            200,
        ]
        unload = "/api/v1/models/hibari/unload"
        assert [c.post(unload).status_code for c in (http, api, page)] == [200, 200, 200]
        assert [c.get("/metrics").status_code for c in (http, api, page)] == [200, 200, 404]


def test_sockets_that_share_a_name_are_all_served(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(roles=("http", "http", "http"))
    for _, listener in daemon.listeners:
        with daemon.client_of(listener) as client:
            assert client.get("/healthz").status_code == 200


def test_the_front_imports_no_numpy_no_codec_and_no_torch() -> None:
    code = "import sys, stepaudiod.daemon; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "transformers", "av", "gradio", "onnxruntime", "hibari", "httpx"}
    first_at_work = {"stepaudiod.worker.process"}
    assert not (heavy | first_at_work) & set(result.stdout.split())
