"""The process at a taken address: its name, its user, how to stop it. Units: tests/systemd/test_taken.py."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepaudiod import port_holders
from stepaudiod.port_holders import explain, is_taken
from stepaudiod.systemd import bind

LISTENER = """
import socket, sys
s = socket.create_server(("0.0.0.0", 0))
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(program: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """A process that listens at all addresses of IPv4: its id and its port."""
    command = [program, "-c", LISTENER, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()


def test_another_program_at_all_addresses_is_found_for_each_of_them() -> None:
    with listening(sys.executable) as (pid, port):
        for address in (f"127.0.0.1:{port}", f"localhost:{port}", f"0.0.0.0:{port}"):
            text = explain(address)
            assert text.startswith(f"{address} is taken: python")
            assert f"(process {pid}, user " in text
            assert f"listens on 0.0.0.0:{port}" in text
            assert f"kill {pid}" in text
        assert explain(f"[::1]:{port}") == ""
    assert not is_taken(f"127.0.0.1:{port}")


@pytest.mark.parametrize("is_v6_only", [False, True])
def test_a_socket_of_ipv6_is_found_where_it_is_in_the_way(is_v6_only: bool) -> None:
    with socket.socket(socket.AF_INET6) as held:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, is_v6_only)
        held.bind(("::", 0))
        held.listen()
        port = held.getsockname()[1]
        assert f"process {os.getpid()}" in explain(f"[::1]:{port}")
        if not is_v6_only:
            assert f"listens on [::]:{port}" in explain(f"127.0.0.1:{port}")
        with socket.create_server(("127.0.0.1", port)) if is_v6_only else held:
            assert f"process {os.getpid()}" in explain(f"127.0.0.1:{port}")


def test_another_address_with_the_same_port_is_not_in_the_way() -> None:
    with socket.create_server(("127.0.0.2", 0)) as held:
        port = held.getsockname()[1]
        assert not is_taken(f"127.0.0.1:{port}")
        assert is_taken(f"0.0.0.0:{port}")


@pytest.mark.parametrize("name", ["sock", "a b", "a\u2028b"])
def test_the_process_at_a_unix_socket_is_found(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    with bind(path):
        assert f"process {os.getpid()}" in explain(path)
    assert explain(path) == ""


def test_a_published_port_of_docker_comes_with_the_command_that_names_the_container(tmp_path: Path) -> None:
    """Docker has a process for each published port; stopping it by its unit would stop every container."""
    proxy = tmp_path / "docker-proxy"
    shutil.copy(Path(sys.executable).resolve(), proxy)
    with listening(str(proxy)) as (_, port):
        text = explain(f"127.0.0.1:{port}")
    assert "docker-proxy (process" in text
    assert f"docker ps --filter publish={port}" in text
    assert "docker update --restart=no NAME; docker stop NAME" in text
    assert "kill" not in text


def test_the_name_of_a_process_cannot_control_a_terminal(tmp_path: Path) -> None:
    program = tmp_path / "\x1b[31mred"
    shutil.copy(Path(sys.executable).resolve(), program)
    with listening(str(program)) as (_, port):
        text = explain(f"127.0.0.1:{port}")
    assert "?[31mred (process" in text
    assert text.isprintable()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_process_of_another_user_is_said_to_be_hidden_and_dockers_is_named(tmp_path: Path) -> None:
    code = Path(port_holders.__file__).read_text()
    as_other_user = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        code,
    ]

    def ask(port: int) -> str:
        command = [*as_other_user, f"127.0.0.1:{port}"]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout

    with listening(sys.executable) as (_, port):
        text = ask(port)
    assert "a process of the user root listens on 0.0.0.0" in text
    assert f"sudo ss -ltnp 'sport = :{port}'" in text
    proxy = tmp_path / "docker-proxy"
    shutil.copy(Path(sys.executable).resolve(), proxy)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with listening(str(proxy), "-host-ip", "0.0.0.0", "-host-port", str(port), "-container-port", "80"):
            assert f"docker ps --filter publish={port}" in ask(port)
