"""The document has every route and the configured limits, and its page loads nothing from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stepaudiod.web.app import API as ROUTES
from stepaudiod.web.docs import FILES
from stepaudiod.web.endpoint import Endpoint
from stepaudiod.web.errors import STATUSES
from tests.activation import DaemonProcess
from tests.conftest import StartDaemon
from tests.test_documents import API, OUTPUT, PRINTS, blocks, run
from tests.web.conftest import hum, wav


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon) -> DaemonProcess:
    return start_module_daemon({"limits.max_text": 321, "limits.max_audio": 77})


@pytest.fixture
def document(awake: DaemonProcess) -> dict[str, Any]:
    response = awake.shared_client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    table: dict[str, Any] = response.json()
    return table


def routes() -> set[tuple[str, str]]:
    """Method and path of every endpoint of the API, and the page's."""
    endpoints = [route for route in ROUTES if isinstance(route, Endpoint)]
    return {(each.method, each.path.replace(":path", "")) for each in endpoints} | {("GET", "/")}


def test_every_endpoint_is_in_the_document(document: dict[str, Any]) -> None:
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == routes()


def test_every_route_of_the_api_is_an_endpoint_but_the_files_of_the_page() -> None:
    assert [route.path for route in ROUTES if not isinstance(route, Endpoint)] == ["/docs/{name}"]


def test_every_error_is_told_with_its_status(document: dict[str, Any]) -> None:
    responses = document["components"]["responses"].values()
    examples = [each["content"]["application/json"]["examples"] for each in responses]
    assert {kind.code for kind in STATUSES} <= {code for each in examples for code in each}
    summaries = [
        example["summary"] for each in examples for name, example in each.items() if name != "not_http"
    ]
    assert all(summaries)
    assert sorted(set(summaries)) == sorted(summaries), "each error has its own description"


@pytest.mark.parametrize(
    ("path", "form", "sent"),
    [
        ("/v1/audio/edits", {"mode": "speed", "edit_info": "faster"}, "x-stepaudio-tempo"),
        ("/v1/audio/edits", {"mode": "denoise"}, "x-stepaudio-noise-reduction"),
        ("/v1/audio/transcriptions", {"model": "whisper-1", "stream": "true"}, "x-stepaudio-language"),
    ],
)
def test_the_headers_that_engines_report_are_declared(
    awake: DaemonProcess, document: dict[str, Any], path: str, form: dict[str, str], sent: str
) -> None:
    response = awake.shared_client.post(path, data=form, files={"file": wav(hum(1.0))}, timeout=60)
    assert response.status_code == 200
    own = {name for name in response.headers if name.startswith("x-stepaudio-")}
    declared = document["paths"][path]["post"]["responses"]["200"]["headers"]
    assert sent in own <= {name.lower() for name in declared}


def test_every_operation_and_schema_is_described(document: dict[str, Any]) -> None:
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    assert all(each["summary"] for each in operations)
    described = [response for each in operations for response in each["responses"].values()]
    assert all(response.get("description") for response in described if "$ref" not in response)


def test_clients_are_generated_with_audio_as_bytes(document: dict[str, Any]) -> None:
    """openapi-python-client takes the first content type, and of those with bytes knows only this."""
    for path in ("/v1/audio/speech", "/v1/audio/speech/upload", "/v1/audio/edits"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert next(iter(content)) == "application/octet-stream"


def test_each_socket_tells_what_it_serves(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(roles=("http", "api"))
    with daemon.client("http") as http, daemon.client("api") as api:
        both, one = (set(client.get("/openapi.json").json()["paths"]) for client in (http, api))
    assert both - one == {"/"}


def test_the_limits_are_those_that_are_configured(awake: DaemonProcess, document: dict[str, Any]) -> None:
    limit = document["components"]["schemas"]["SpeechForm"]["properties"]["input"]["maxLength"]
    assert limit == 321
    assert (
        "77.0 seconds" in document["components"]["schemas"]["EditForm"]["properties"]["file"]["description"]
    )
    for length, status in ((limit, 200), (limit + 1, 400)):
        body = {"model": "hibari", "voice": "heart", "input": "Hi.".ljust(length, " ")}
        assert awake.shared_client.post("/v1/audio/speech", json=body).status_code == status


def test_every_operation_has_an_example_and_its_errors(document: dict[str, Any]) -> None:
    responses = document["components"]["responses"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            refs = [r["$ref"].rpartition("/")[2] for r in operation["responses"].values() if "$ref" in r]
            assert {"500", "503"} <= set(operation["responses"]), path
            for ref in refs:
                for example in responses[ref]["content"]["application/json"]["examples"].values():
                    assert set(example["value"]["error"]) == {"message", "type", "param", "code"}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                fields = document["components"]["schemas"].get(name, {}).get("properties", {}).values()
                assert "example" in content or any("examples" in field for field in fields), path


class Page(HTMLParser):
    """What a page loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "link", "img", "iframe", "object"):
            self.loads.append(given.get("src") or given.get("href") or "inline")


def test_the_page_loads_its_own_files_and_no_others(awake: DaemonProcess) -> None:
    response = awake.shared_client.get("/docs")
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    loads = Page(response.text).loads
    assert set(loads) == {f"docs/{name}" for name in (*FILES, "start.js")}
    for path in loads:
        file = awake.shared_client.get(f"/{path}")
        assert file.status_code == 200
        assert len(file.content) > 50
    assert 'href="openapi.json"' in response.text.partition("<noscript>")[2]


@pytest.mark.parametrize("name", ["other.js", "..%2Fmain.py", "swagger-ui.css%00"])
def test_only_the_files_of_the_page_are_served(awake: DaemonProcess, name: str) -> None:
    assert awake.shared_client.get(f"/docs/{name}").status_code == 404


def test_the_old_place_leads_to_it(awake: DaemonProcess) -> None:
    response = awake.shared_client.get("/redoc")
    assert (response.status_code, response.headers["location"]) == (308, "docs")


@pytest.mark.parametrize("value", ["x", 0, True, [], 1.5, ""])
def test_a_part_that_is_no_object_is_named(awake: DaemonProcess, value: object) -> None:
    with awake.client() as client:
        body = {"model": "hibari", "voice": "", "input": "Hi.", "step_audio": value}
        error = client.post("/v1/audio/speech", json=body).json()["error"]
    assert error["param"] == "step_audio"
    assert "The body" not in error["message"]


def test_a_wrong_method_is_told_every_right_one(awake: DaemonProcess) -> None:
    response = awake.shared_client.put("/v1/audio/voices")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, POST"


def test_nothing_of_it_is_imported_before_the_first_request() -> None:
    code = "import sys, stepaudiod.daemon; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "stepaudiod.web.openapi" not in modules
    assert "swagger" not in modules


def test_reading_it_wakes_no_worker(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    for path in ("/openapi.json", "/docs"):
        assert daemon.shared_client.get(path).status_code == 200
    assert daemon.shared_client.get("/api/v1/models/status").json()["daemon"]["worker_pid"] is None


# ---- a voice's recording


def test_a_recording_is_never_served_as_anything_but_sound(step_audio: DaemonProcess) -> None:
    client = step_audio.shared_client
    whole = client.get("/v1/audio/voices/hum/recording").content
    fields = {"name": "Page", "consent": "mine", "transcript": "x"}
    made = client.post("/v1/audio/voices", data=fields, files={"audio_sample": ("x.html", whole)})
    assert made.status_code == 200, made.text
    response = client.get("/v1/audio/voices/page/recording")
    client.delete("/v1/audio/voices/page")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("header", "status", "length"),
    [
        ("bytes=0-9", 206, 10),
        ("bytes=-5", 206, 5),
        ("bytes=9-2", 200, None),
        ("bytes=0-1,4-5", 200, None),
        ("bytes=99999999999-", 200, None),
        ("lines=1-2", 200, None),
        ("bytes=" + "9" * 5000 + "-", 200, None),
    ],
)
def test_a_stretch_of_a_recording(
    step_audio: DaemonProcess, header: str, status: int, length: int | None
) -> None:
    client = step_audio.shared_client
    whole = client.get("/v1/audio/voices/hum/recording").content
    response = client.get("/v1/audio/voices/hum/recording", headers={"Range": header})
    assert response.status_code == status
    assert len(response.content) == (len(whole) if length is None else length)


# ---- the examples


def test_the_examples_name_every_path() -> None:
    code = "\n".join(block.code for block in blocks(API))
    for _, path in routes():
        pattern = re.sub(r"\\\{\w+\\\}", r"[\\w-]+", re.escape(f":7860{path}"))
        assert re.search(rf"{pattern}(?=[\s\"'?])", code), path


@pytest.mark.slow
def test_the_examples_do_what_they_say(step_audio: DaemonProcess, tmp_path: Path) -> None:
    everything = blocks(API)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for index, block in enumerate(everything):
        if not block.mark:
            assert block.language in ("json", "text"), block.code
            continue
        printed = run(block, step_audio, environ, tmp_path)
        assert '"error"' not in printed or block.mark in PRINTS, printed
        if block.mark in PRINTS:
            assert json.loads(printed) == json.loads(everything[index + 1].code)
        for name in OUTPUT.findall(block.code):
            assert (tmp_path / name).stat().st_size > 500, name


def test_a_voice_that_many_delete_at_once_is_deleted_once(step_audio: DaemonProcess) -> None:
    client = step_audio.shared_client
    recording = client.get("/v1/audio/voices/hum/recording").content
    fields = {"name": "Short lived", "consent": "mine", "transcript": "x"}
    assert client.post("/v1/audio/voices", data=fields, files={"audio_sample": recording}).status_code == 200
    path = "/v1/audio/voices/short-lived"
    with ThreadPoolExecutor(12) as pool:
        looking = [pool.submit(client.get, p) for p in (path, f"{path}/recording", "/v1/audio/voices") * 3]
        deleted = [pool.submit(client.delete, path) for _ in range(6)]
        looking += [pool.submit(client.get, p) for p in (path, f"{path}/recording", "/v1/audio/voices") * 3]
    assert sorted(each.result().status_code for each in deleted) == [200, *[404] * 5]
    assert {each.result().status_code for each in looking} <= {200, 404}
