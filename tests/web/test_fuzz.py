"""Malformed requests: bodies, forms and headers that are wrong in many ways. Each gets its 4xx."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import httpx
import pytest

from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon

SPEECH = "/v1/audio/speech"
FORMS = (
    *("/v1/audio/transcriptions", "/v1/audio/voices", "/v1/audio/edits", "/v1/audio/speech/upload"),
    *("/api/clone", "/api/edit"),
)
PLAIN = b'Content-Disposition: form-data; name="model"'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"'
TRICKY_CODECS = (
    "utf-16",
    "hex",
    "idna",
    "punycode",
    "undefined",
    "unicode_escape",
    "rot13",
    "no-such",
    "\xff",
    "",
)


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon, tmp_path_factory: pytest.TempPathFactory) -> DaemonProcess:
    """One daemon, which must survive all requests."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "spool").mkdir()
    settings: dict[str, object] = {"data_dir": folder / "data", "limits.max_body": 100_000}
    return start_module_daemon(settings, environ={"TMPDIR": str(folder / "spool")})


@pytest.fixture
def client(awake: DaemonProcess) -> httpx.Client:
    return awake.shared_client


def part(headers: bytes, data: bytes = b"x") -> bytes:
    return b"--b\r\n" + headers + b"\r\n\r\n" + data + b"\r\n"


def refused(response: httpx.Response) -> None:
    """A client error in the API's form."""
    assert 400 <= response.status_code < 500, (response.status_code, response.text)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


BODIES = {
    "empty": b"",
    "no form": b"hello",
    "only an end": b"--b--\r\n",
    "no end": part(PLAIN, b"whisper-1"),
    "no name": part(b"Content-Disposition: form-data", b"x") + b"--b--\r\n",
    "no disposition": part(b"X-Other: 1") + b"--b--\r\n",
    "no headers": b"--b\r\n\r\nx\r\n--b--\r\n",
    "broken header": part(b"Content-Disposition form-data") + b"--b--\r\n",
    "control characters in a header": part(b"Content-Dis\x00position: form-data") + b"--b--\r\n",
    "a huge header": part(PLAIN + b"; x=" + b"a" * 200_000) + b"--b--\r\n",
    "many headers": part(b"\r\n".join(b"X-%d: 1" % i for i in range(500))) + b"--b--\r\n",
    "many parts": part(PLAIN) * 500 + b"--b--\r\n",
    "many files": part(FILE) * 500 + b"--b--\r\n",
    "a file twice": part(FILE) * 2 + b"--b--\r\n",
    "a field twice": part(PLAIN) * 2 + b"--b--\r\n",
    "a huge field": part(PLAIN, b"a" * 300_000) + b"--b--\r\n",
    "no filename": part(b'Content-Disposition: form-data; name="file"') + b"--b--\r\n",
    "an empty filename": part(b'Content-Disposition: form-data; name="file"; filename=""') + b"--b--\r\n",
    "a filename with a path": part(FILE.replace(b"a.wav", b"../../../etc/passwd")) + b"--b--\r\n",
    "a filename in Chinese": part(FILE.replace(b"a.wav", "录音.wav".encode())) + b"--b--\r\n",
    "a filename that is no text": part(FILE.replace(b"a.wav", b"\xff\xfe\x80.wav")) + b"--b--\r\n",
    "an encoded filename": part(FILE + b"; filename*=UTF-8''%F0%9F%92%A9%ZZ") + b"--b--\r\n",
    "a filename in no codec": part(FILE + b"; filename*=undefined''%41") + b"--b--\r\n",
    "a suffix with a slash": part(FILE.replace(b"a.wav", b"a./../b")) + b"--b--\r\n",
    "a name that is no text": part(b'Content-Disposition: form-data; name="\xff\xfe"') + b"--b--\r\n",
    "a very long name": part(b'Content-Disposition: form-data; name="' + b"n" * 4000 + b'"') + b"--b--\r\n",
    "an empty list's name": part(b'Content-Disposition: form-data; name="[]"') + b"--b--\r\n",
    "a list and a field": part(PLAIN) + part(PLAIN.replace(b"model", b"model[]")) + b"--b--\r\n",
    "a field that is no text": part(PLAIN, b"\xff\xfe\x00") + b"--b--\r\n",
    "text behind the end": b"--b--\r\n" + b"x" * 1000,
    "another boundary": part(PLAIN).replace(b"--b", b"--c") + b"--c--\r\n",
    "bare line feeds": part(PLAIN).replace(b"\r\n", b"\n") + b"--b--\n",
    "a form in a form": part(b"Content-Type: multipart/mixed; boundary=c\r\n" + PLAIN, b"--c--")
    + b"--b--\r\n",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_broken_form_is_refused(client: httpx.Client, name: str) -> None:
    for path in FORMS:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        refused(client.post(path, content=BODIES[name], headers=headers))


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 5000,
        "multipart/form-data; boundary=\xff",
        'multipart/form-data; boundary="b',
        "multipart/form-data; boundary*=utf-8''b",
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/mixed; boundary=b",
        "application/json",
        "",
        *(f"multipart/form-data; boundary=b; charset={codec}" for codec in TRICKY_CODECS),
    ],
)
def test_a_broken_content_type_is_refused(client: httpx.Client, content_type: str) -> None:
    body = part(PLAIN, b"\xff\x80.xn--\\x") + part(FILE) + b"--b--\r\n"
    for path in FORMS:
        headers = {b"content-type": content_type.encode("latin-1")}
        refused(client.post(path, content=body, headers=headers))


def test_the_name_of_a_media_type_has_no_case(client: httpx.Client) -> None:
    body = part(b'Content-Disposition: form-data; name="nothing"') + b"--b--\r\n"
    response = client.post(
        FORMS[0], content=body, headers={"content-type": "Multipart/Form-Data; boundary=b"}
    )
    assert response.json()["error"]["param"] == "model"


JSONS = {
    "nothing": b"",
    "half": b'{"model": "tts-1"',
    "a list": b"[]",
    "a string": b'"speak"',
    "null": b"null",
    "a number": b"1e999",
    "no text": b"\xff\xfe\x00",
    "a mark first": b"\xef\xbb\xbf{}",
    "utf-16": '{"model": "tts-1"}'.encode("utf-16"),
    "deep": b"[" * 50_000 + b"]" * 50_000,
    "deep objects": b'{"a":' * 15_000 + b"1" + b"}" * 15_000,
    "a twin key": b'{"model": "tts-1", "model": "tts-1", "voice": "alloy", "input": 1}',
}

VALUES = {
    "not a number": b"NaN",
    "infinity": b"Infinity",
    "minus infinity": b"-Infinity",
    "beyond floats": b"1e400",
    "a huge integer": b"9" * 5000,
    "a negative one": b"-1",
    "a lone surrogate": b'"\\ud800"',
    "a null character": b'"\\u0000"',
    "true": b"true",
    "null": b"null",
    "a list": b"[1]",
    "an object": b'{"id": {"id": 1}}',
    "a long string": json.dumps("x" * 90_000).encode(),
    "control characters": b'"\\u001b[31m\\r\\nX: 1"',
    "an emoji": '"💩"'.encode(),
}


@pytest.mark.parametrize("name", JSONS)
def test_a_broken_json_is_refused(client: httpx.Client, name: str) -> None:
    refused(client.post(SPEECH, content=JSONS[name]))


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("field", ["model", "voice", "speed", "seed", "response_format", "other"])
def test_a_wrong_value_is_refused_or_taken(client: httpx.Client, field: str, name: str) -> None:
    fields = {"model": b'"tts-1"', "voice": b'"alloy"', "input": b'"Hi."'} | {field: VALUES[name]}
    body = b"{" + b", ".join(b'"%s": %s' % (key.encode(), value) for key, value in fields.items()) + b"}"
    is_absent = name == "null" and field not in ("model", "voice")
    is_foreign = field == "other" and name not in ("a lone surrogate", "a huge integer")  # no JSON here
    response = client.post(SPEECH, content=body)
    if is_absent or is_foreign or (field, name) in {("speed", "true"), ("seed", "true")}:
        assert response.status_code == 200, response.text
    else:
        refused(response)


@pytest.mark.parametrize("value", ["inf", "nan", "1e999", "9" * 5000, "٣", " 1 ", "0x10", "1_0", "true", ""])
@pytest.mark.parametrize("field", ["intensity", "iterations", "seed"])
def test_numbers_of_a_form_are_numbers(client: httpx.Client, field: str, value: str) -> None:
    response = client.post(FORMS[2], data={"mode": "vad", field: value}, files={"file": ("a.wav", b"")})
    refused(response)


POST = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n"
HEADS = {
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a huge length": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "a broken chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a broken chunk for a path without a body": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a null in a header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n",
    "a huge header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "a broken escape": b"GET /v1/audio/voices/%zz%00%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that climbs": b"GET /v1/audio/voices/..%2f..%2fetc HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a very long path": b"GET /v1/audio/voices/" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method of one's own": b"BREW /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes": bytes(range(1, 256)) + b"\r\n\r\n",
    "a broken query": b"GET /v1/voices?model=&&=&%zz&model=%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


def status_of(daemon: DaemonProcess, data: bytes) -> int:
    """Send these bytes and read the response's status."""
    with socket.create_connection(daemon.address, timeout=DEADLINE_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while b"\r\n" not in answer and (more := connection.recv(65536)):
            answer += more
    return int(answer.split()[1])


@pytest.mark.parametrize("name", HEADS)
def test_a_broken_head_is_refused(awake: DaemonProcess, name: str) -> None:
    wanted = 501 if name == "an unknown coding" else range(400, 500)
    status = status_of(awake, HEADS[name])
    assert status == wanted if isinstance(wanted, int) else status in wanted


def test_forms_with_random_bytes_in_them_are_answered(awake: DaemonProcess, client: httpx.Client) -> None:
    chance = random.Random(1)
    whole = part(PLAIN, b"whisper-1") + part(FILE, b"RIFF" + bytes(60)) + b"--b--\r\n"
    for _ in range(300):
        body = bytearray(whole)
        for _change in range(chance.randrange(1, 12)):
            at = chance.randrange(len(body))
            body[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
        headers = {"content-type": "multipart/form-data; boundary=b"}
        response = client.post(chance.choice(FORMS), content=bytes(body), headers=headers)
        assert response.status_code < 500 or response.json()["error"]["code"] == "engine_unavailable"
    assert awake.process.poll() is None


def test_fuzzing_leaves_no_files(awake: DaemonProcess, client: httpx.Client, tmp_path: Path) -> None:
    client.post(FORMS[0], files={"file": ("a.wav", b"x" * 2_000_000)}, data={"model": "missing"})
    client.get("/healthz")
    assert "Traceback" not in awake.log()
    spool = next(awake.folder.parent.parent.glob("fuzz*")) / "spool"
    assert list(spool.glob("stepaudiod-*")) == []
