"""The activator of `make run`: no refused connections, no restart loops, no leftovers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from stepaudiod.systemd import bind
from tests.activation import DEADLINE_S, pids_of_group

LISTENING = "listening on "
EXITED = "asleep until the next connection"


@contextmanager
def activated(
    *arguments: str, options: tuple[str, ...] = ("--set=engine=hibari", "--set=idle_timeout=0.1")
) -> Iterator[subprocess.Popen[str]]:
    """The program with these `--listen` arguments; killed at the end if it still runs."""
    command = [sys.executable, "-m", "stepaudiod.activate", *(f"--listen={each}" for each in arguments)]
    with subprocess.Popen([*command, "--", *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            for pid in pids_of_group(process.pid) if process.poll() is None else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()


def connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(DEADLINE_S)
    try:
        made.connect(str(path))
    except OSError:
        made.close()
        raise
    return made


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    lines: list[str] = []
    while line := process.stderr.readline():
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def healthz(path: Path) -> int:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=DEADLINE_S) as client:
        return client.get("http://localhost/healthz").status_code


def test_no_connection_is_refused_across_exits(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with activated(str(path)) as process:
        read_until(process, LISTENING)
        for _ in range(3):
            assert healthz(path) == 200
            read_until(process, EXITED)
            # from here on the daemon exits, has exited, or the next one starts
            for _ in range(300):
                connect(path).close()
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def test_each_socket_serves_its_role(tmp_path: Path) -> None:
    page, api = tmp_path / "page", tmp_path / "api"
    with activated(f"page={page}", f"api={api}") as process:
        read_until(process, LISTENING)
        assert healthz(api) == 200
        assert f"{page} (page), {api} (api)" in read_until(process, "ready on")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_awake", [True, False])
def test_a_stop_ends_both_and_leaves_no_socket(tmp_path: Path, number: int, is_awake: bool) -> None:
    path = tmp_path / "sock"
    with activated(str(path), options=("--set=engine=hibari", "--set=idle_timeout=never")) as process:
        read_until(process, LISTENING)
        if is_awake:
            connect(path).close()
            read_until(process, "ready on")
            (daemon,) = pids_of_group(process.pid)
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0
        if is_awake:
            with pytest.raises(ProcessLookupError):
                os.kill(daemon, 0)
    assert not path.exists()


def test_a_stop_lets_the_request_finish(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    body = {
        "model": "hibari",
        "voice": "heart",
        "input": "One more sentence. " * 8,
        "response_format": "wav",
    }
    with activated(str(path)) as process:
        read_until(process, LISTENING)
        transport = httpx.HTTPTransport(uds=str(path))
        with (
            httpx.Client(transport=transport, timeout=DEADLINE_S) as client,
            client.stream("POST", "http://localhost/v1/audio/speech", json=body) as response,
        ):
            chunks = response.iter_bytes()
            size = len(next(chunks))
            process.send_signal(signal.SIGINT)
            size += sum(map(len, chunks))
        assert size > 24000 * 2 * 5
        assert process.wait(DEADLINE_S) == 0
    assert not path.exists()


def test_repeated_failed_starts_end_the_activator_with_the_status(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with activated(str(path), options=("--no-such-option",)) as process:
        read_until(process, LISTENING)
        with connect(path) as waiting:
            assert process.wait(DEADLINE_S) == 2
            with suppress(ConnectionResetError):
                assert waiting.recv(1) == b""
        assert process.stderr is not None
        said = process.stderr.read()
    assert said.count("unrecognized arguments: --no-such-option") == 3
    assert "failed to start 3 times in a row" in said
    assert not path.exists()


def test_a_daemon_that_was_killed_is_started_again(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with activated(str(path)) as process:
        read_until(process, LISTENING)
        connect(path).close()
        read_until(process, "ready on")
        for pid in pids_of_group(process.pid):
            os.kill(pid, signal.SIGKILL)
        assert healthz(path) == 200
        assert "the daemon ended with SIGKILL" in read_until(process, "ready on")


def test_an_address_that_cannot_be_bound_is_named(tmp_path: Path) -> None:
    first, taken = tmp_path / "first", tmp_path / "taken"
    with bind(str(taken)), socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address, reason in (
            (f"127.0.0.1:{port}", f"(process {os.getpid()}, user "),
            (str(taken), f"(process {os.getpid()}, user "),
            ("localhost", "isn't address:port"),
            ("127.0.0.1:99999", "port"),
        ):
            with activated(str(first), address) as process:
                assert process.wait(DEADLINE_S) == 1
                assert process.stderr is not None
                said = process.stderr.read()
            assert address in said
            assert reason in said
            assert "Traceback" not in said
            assert not first.exists()
        assert taken.exists()
