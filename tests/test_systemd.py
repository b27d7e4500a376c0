"""Sockets from systemd under any name, and sockets bound by the daemon."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from stepaudiod.errors import AddressTaken
from stepaudiod.systemd import bind
from tests.activation import BINDINGS, DEADLINE_S, bindings_environ
from tests.conftest import StartDaemon


@pytest.fixture(params=BINDINGS)
def bindings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Variables of a daemon with systemd-python and sdnotify, and of one without them."""
    return bindings_environ(request.param, tmp_path / "blocked")


def free_port(family: socket.AddressFamily) -> int:
    with socket.create_server(("", 0), family=family) as probe:
        return int(probe.getsockname()[1])


def test_every_socket_of_systemd_socket_activate_wakes_and_is_served(
    tmp_path: Path, bindings: dict[str, str]
) -> None:
    v4, v6, unix = free_port(socket.AF_INET), free_port(socket.AF_INET6), tmp_path / "sock"
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{v4}", "-l", f"[::1]:{v6}", "-l", str(unix)]
    command += [f"--setenv={name}={value}" for name, value in bindings.items()]
    command += ["--fdname=http:api:http", sys.executable, "-m", "stepaudiod", "--set=idle_timeout=0.5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "Listening on" in (line := process.stderr.readline()) and str(unix) not in line:
            pass
        over_unix = httpx.Client(transport=httpx.HTTPTransport(uds=str(unix)), timeout=DEADLINE_S)
        with over_unix, httpx.Client(timeout=DEADLINE_S) as over_tcp:
            assert over_unix.get("http://localhost/").status_code == 200
            assert over_tcp.get(f"http://127.0.0.1:{v4}/").status_code == 200
            assert over_tcp.get(f"http://[::1]:{v6}/healthz").status_code == 200
            assert over_tcp.get(f"http://[::1]:{v6}/").status_code == 404
        assert process.wait(DEADLINE_S) == 0
        said = process.stderr.read()
    assert f"127.0.0.1:{v4} (http), [::1]:{v6} (api), {unix} (http)" in said


def test_the_manager_hears_of_the_daemons_life(start_daemon: StartDaemon, bindings: dict[str, str]) -> None:
    watched = {"WATCHDOG_USEC": "200000"}
    daemon = start_daemon({"idle_timeout": 1}, environ=bindings | watched)
    daemon.notify.wait_for("STATUS=asleep in 1 s · hibari")
    daemon.notify.wait_for("WATCHDOG=1", count=3)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notify.wait_for("RELOADING=1")
    daemon.notify.wait_for("READY=1", count=2)
    assert daemon.wait() == 0
    daemon.notify.wait_for("STOPPING=1")


def test_the_managers_socket_may_be_an_abstract_one(tmp_path: Path, bindings: dict[str, str]) -> None:
    name = f"stepaudiod-test-{os.getpid()}"
    listen = f'--set=listen.http=["{tmp_path / "sock"}"]'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(DEADLINE_S)
        environ = os.environ | bindings | {"NOTIFY_SOCKET": f"@{name}"}
        command = [sys.executable, "-m", "stepaudiod", "--set=idle_timeout=0.1", listen]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environ) as process:
            while manager.recv(4096) != b"READY=1":
                pass
            assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    "variables",
    [{"LISTEN_FDS": "two"}, {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http"}, {"LISTEN_FDS": "70000"}],
    ids=["no number", "too few names", "closed descriptors"],
)
def test_sockets_that_are_not_there_are_an_error(bindings: dict[str, str], variables: dict[str, str]) -> None:
    command = ["sh", "-c", f'LISTEN_PID=$$ exec "{sys.executable}" -m stepaudiod']
    environ = os.environ | bindings | variables
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=DEADLINE_S)
    assert result.returncode == 1
    assert "can't listen: " in result.stderr
    assert "Traceback" not in result.stderr


def test_by_hand_it_binds_what_the_configuration_says(tmp_path: Path) -> None:
    unix, v6 = tmp_path / "sock", free_port(socket.AF_INET6)
    listen = [f'--set=listen.http=["{unix}"]', f'--set=listen.api=["[::1]:{v6}"]']
    command = [sys.executable, "-m", "stepaudiod", "--set=idle_timeout=0.5", *listen]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "ready on" not in process.stderr.readline():
            pass
        with httpx.Client(timeout=DEADLINE_S) as client:
            assert client.get(f"http://[::1]:{v6}/healthz").status_code == 200
        assert process.wait(DEADLINE_S) == 0


def test_an_address_that_cannot_be_bound_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f'--set=listen.http=["127.0.0.1:{taken.getsockname()[1]}"]'
        command = [sys.executable, "-m", "stepaudiod", listen]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"(process {os.getpid()}, user " in result.stderr
    assert "set other addresses in [listen]" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    bind(path).close()
    with bind(path) as again:
        assert again.getsockname() == path
        with pytest.raises(AddressTaken, match=f"process {os.getpid()}"):
            bind(path)


@pytest.mark.parametrize("kind", ["file", "folder", "pipe", "link to a file", "link to a socket"])
def test_only_a_socket_is_replaced(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "here", tmp_path / "other"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        if kind.endswith("file"):
            other.write_text("mine")
        else:
            bind(str(other)).close()
        path.symlink_to(other)
    before = path.lstat()
    command = [sys.executable, "-m", "stepaudiod", f'--set=listen.http=["{path}"]']
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert result.returncode == 1
    assert f"{path} exists and isn't a socket" in result.stderr
    assert "Traceback" not in result.stderr
    assert path.lstat() == before
    assert os.path.lexists(other) == kind.startswith("link")


def test_a_socket_with_a_listener_is_never_replaced(tmp_path: Path) -> None:
    """Also if the listener's queue is full, or if it isn't a stream socket."""
    full, datagrams = str(tmp_path / "full"), str(tmp_path / "datagrams")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as first,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        listener.bind(full)
        listener.listen(0)
        first.connect(full)
        receiver.bind(datagrams)
        for path in (full, datagrams):
            with pytest.raises(AddressTaken, match=f"process {os.getpid()}"):
                bind(path)
            assert os.path.exists(path)


def test_an_invalid_address_is_named() -> None:
    for address in ("7860", "localhost", "127.0.0.1:http", ":"):
        with pytest.raises(ValueError, match="isn't address:port"):
            bind(address)
