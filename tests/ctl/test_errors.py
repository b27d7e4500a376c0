"""Every error has an exit code and says what to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.ctl.conftest import Ctl

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n"
SOME_AUDIO = HEAD + b"4\r\nRIFF\r\n"
ALL_AUDIO = SOME_AUDIO + b"0\r\n\r\n"

Answers = Callable[[list[bytes]], Ctl]


@pytest.fixture
def answers(tmp_path: Path, programs: Path) -> Iterator[Answers]:
    """A server that sends each connection a response, complete or not, and closes it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    threads: list[threading.Thread] = []

    def serve(texts: list[bytes]) -> None:
        for text in texts:
            connection, _ = listener.accept()
            with connection:
                received = b""
                while b'"input"' not in received:
                    received += connection.recv(65536)
                connection.sendall(text)

    def start(texts: list[bytes]) -> Ctl:
        listener.bind(str(tmp_path / "server"))
        listener.listen()
        threads.append(threading.Thread(target=serve, args=(texts,)))
        threads[0].start()
        return Ctl(("--socket", str(tmp_path / "server")), str(programs))

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def test_an_unknown_voice_is_the_daemons_error(shared_ctl: Ctl) -> None:
    done = shared_ctl.run("say", "Hello.", "-", "--voice", "missing")
    assert done.returncode == 1
    assert done.stderr.startswith(
        b"stepaudioctl: The engine hibari has no voice 'missing'. Its voices: heart."
    )


def test_errors_are_json_on_request(shared_ctl: Ctl) -> None:
    error = json.loads(shared_ctl.run("say", "Hello.", "-", "--voice", "missing", "--json").stderr)["error"]
    assert (error["exit_code"], error["param"]) == (1, "voice")
    assert 400 <= error["status"] < 500


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        (("say", "", "-"), "input"),
        (("say", "Hello.", "-", "--speed", "9"), "speed"),
        (("say", "Hello.", "-", "--model", "nothing"), "model"),
        (("voices", "--model", "nothing"), "model"),
        (("unload", "a/b"), None),
    ],
)
def test_what_the_daemon_refuses_is_1(shared_ctl: Ctl, arguments: tuple[str, ...], param: str | None) -> None:
    done = shared_ctl.run(*arguments, "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["param"] == param


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sing",),
        ("say", "Hello.", "-o", "hello.txt"),
        ("say", "Hello.", "-o", ""),
        ("say", "Hello.", "-o", "/nowhere/hello.mp3"),
        ("say", "Hello.", "-o", "hello.mp3", "-"),
        ("say", "Hello.", "--format", "mp3"),
        ("say", "Hello.", "--file", "text"),
        ("say", "--file", "/nowhere/text", "-o", "-"),
        ("say", "Hello.", "-", "--speed", "fast"),
        ("say", "Hello.", "-", "--speed", "nan"),
        ("say", "Hello.", "-", "--voice", "\udcff"),
        ("status", "--api-key", "caf\u00e9"),
        ("status", "--timeout", "0"),
        ("status", "--url", "stepaudio"),
        ("status", "--url", "http://localhost:7860"),
    ],
)
def test_wrong_usage_is_2(programs: Path, arguments: tuple[str, ...]) -> None:
    done = Ctl(("--socket", "/nowhere/sock"), str(programs)).run(*arguments)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example", "xn--a", "xn--99999", "xn--\udcff"])
def test_a_server_whose_name_cannot_be_one_is_2(programs: Path, host: str) -> None:
    done = Ctl(("--url", f"http://{host}"), str(programs)).run("status")
    assert done.returncode == 2
    assert b"isn't the URL of a server" in done.stderr


def test_text_that_is_not_utf8_is_2(programs: Path) -> None:
    done = Ctl((), str(programs)).run("say", "-o", "-", stdin=b"\xff\xfe")
    assert done.returncode == 2
    assert b"isn't UTF-8" in done.stderr


def test_no_daemon_is_3_and_names_the_unit(programs: Path, tmp_path: Path) -> None:
    done = Ctl(("--socket", str(tmp_path / "none")), str(programs)).run("status")
    assert done.returncode == 3
    assert b"Is stepaudiod.socket active?" in done.stderr


def test_a_socket_without_a_listener_is_3(programs: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
        left_over.bind(str(tmp_path / "sock"))
    done = Ctl(("--socket", str(tmp_path / "sock")), str(programs)).run("status")
    assert done.returncode == 3
    assert b"No process listens" in done.stderr


def test_a_socket_that_is_an_ordinary_file_is_3_and_stays(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "sock").write_text("mine")
    done = Ctl(("--socket", str(tmp_path / "sock")), str(programs)).run("status")
    assert done.returncode == 3
    assert b"isn't a socket" in done.stderr
    assert (tmp_path / "sock").read_text() == "mine"


def test_no_permission_is_3_and_names_the_group() -> None:
    program = """
import os, sys
import stepaudiod.ctl.client
from stepaudiod.ctl.main import main
if os.geteuid() == 0:
    os.setuid(65534)
sys.exit(main())
"""
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path = Path(folder) / "sock"
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        Path(folder).chmod(0o711)
        command = [sys.executable, "-c", program, "status", "--socket", str(path)]
        done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 3
    assert b"usermod -aG _stepaudio" in done.stderr


def test_a_url_without_a_listener_is_3(programs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = Ctl(("--url", f"http://127.0.0.1:{port}"), str(programs)).run("voices")
    assert done.returncode == 3


def test_a_daemon_without_a_response_is_3(answers: Answers, tmp_path: Path, programs: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        done = Ctl(("--socket", str(tmp_path / "silent")), str(programs)).run("status", "--timeout", "0.1")
    assert done.returncode == 3
    assert b"no answer for 0.1 s" in done.stderr


def test_a_connection_closed_before_any_answer_is_made_again(answers: Answers) -> None:
    assert answers([b"", ALL_AUDIO]).ok("say", "Hello.", "-") == b"RIFF"


def test_a_connection_closed_twice_is_3(answers: Answers) -> None:
    assert answers([b"", b""]).run("say", "Hello.", "-").returncode == 3


def test_audio_without_its_end_leaves_no_file(answers: Answers, tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    done = answers([SOME_AUDIO]).run("say", "Hello.", "-o", str(folder / "hello.wav"))
    assert done.returncode == 4
    assert list(folder.iterdir()) == []


def test_another_server_is_not_taken_for_the_daemon(answers: Answers) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
    done = answers([page]).run("say", "Hello.", "-")
    assert done.returncode == 1
    assert b"Is it stepaudiod?" in done.stderr


def test_an_error_in_another_form_is_shown(answers: Answers) -> None:
    done = answers([b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno"]).run("say", "Hello.", "-")
    assert done.returncode == 1
    assert b"502 Bad Gateway" in done.stderr


def test_help_needs_no_http_library() -> None:
    program = (
        "import sys; from stepaudiod.ctl.main import main; main(['--version']); print('httpx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split()[-1] == b"False"


def test_help_documents_the_exit_codes(programs: Path) -> None:
    assert b"3    the daemon can't be reached" in Ctl((), str(programs)).ok("--help")
