"""The daemon under a real systemd: sockets, idle exits, failures, notifications."""

from __future__ import annotations

import concurrent.futures
import json
import os
import random
import signal
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.activation import BINDINGS, bindings_environ
from tests.systemd.conftest import CHECKOUT
from tests.systemd.journal import Entry
from tests.systemd.machine import API, DROP_INS, TCP4, TCP6, UNIX, Machine
from tests.systemd.network import Address, Reply

SERVICE, SOCKET, API_SOCKET = "stepaudiod.service", "stepaudiod.socket", "stepaudiod-api.socket"
CONFIG = "/etc/stepaudiod/stepaudiod.toml"
COULD_NOT_CONNECT = 7  # curl(1), exit codes
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
LONG = "This is one more sentence of a long text. " * 150


@pytest.fixture
def sleeping(machine: Machine) -> Iterator[Machine]:
    """The machine with listening sockets, the small English voice, and no daemon."""
    configure(machine)
    machine.systemctl("start", SOCKET)
    yield machine
    machine.reset(SERVICE, SOCKET, API_SOCKET)


@pytest.fixture(params=BINDINGS)
def bindings(machine: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """The daemon with systemd-python and sdnotify, and one without them; the PYTHONPATH that makes it so."""
    folder, conf = "/usr/local/lib/blocked", f"{DROP_INS}/{SERVICE}.d/without.conf"
    blocked = bindings_environ(request.param, machine.path(folder))
    path = f"{folder}:{CHECKOUT}" if blocked else str(CHECKOUT)
    machine.write(conf, f"[Service]\nEnvironment=PYTHONPATH={path}\n")
    machine.systemctl("daemon-reload")
    yield path
    machine.remove(conf)
    machine.systemctl("daemon-reload")


def configure(machine: Machine, **settings: object) -> None:
    lines = {"engine": '"hibari"', "idle_timeout": 300, **settings}
    machine.write(CONFIG, "".join(f"{key} = {value}\n" for key, value in lines.items()))


def say(machine: Machine, text: str = "Hello there.", at: Address = TCP4, **headers: str) -> Reply:
    body = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "wav"}
    return machine.request("POST", "/v1/audio/speech", json.dumps(body).encode(), headers, at=at)


def status_line(machine: Machine) -> str:
    return machine.show(SERVICE, "StatusText")


def test_nothing_runs_before_a_connection(sleeping: Machine) -> None:
    assert sleeping.show(SOCKET, "ActiveState") == "active"
    assert sleeping.show(SERVICE, "ActiveState") == "inactive"
    assert sleeping.processes(SERVICE) == []


@pytest.mark.parametrize("at", [TCP4, TCP6, UNIX], ids=["IPv4", "IPv6", "unix"])
def test_a_connection_to_any_socket_wakes_it_and_it_speaks(sleeping: Machine, at: Address) -> None:
    reply = say(sleeping, at=at)
    assert reply.status == 200
    assert reply.body.startswith(b"RIFF")
    assert len(reply.body) > 24_000


def test_the_unix_socket_is_for_its_group(sleeping: Machine) -> None:
    path = str(UNIX)
    found = sleeping.run("stat", "--format=%U %G %a", path).stdout.split()
    assert found == ["root", "_stepaudio", "660"]
    curl = ["curl", "-sS", "--unix-socket", path, "http://localhost/healthz"]
    assert sleeping.run(*curl, user="_stepaudio").stdout == '{"status":"ok"}'
    assert sleeping.run(*curl, user="nobody", check=False).returncode == COULD_NOT_CONNECT


def test_asleep_it_uses_no_memory_and_the_next_connection_wakes_it(sleeping: Machine) -> None:
    configure(sleeping, idle_timeout=0.5)
    for _ in range(2):
        assert say(sleeping).status == 200
        sleeping.wait_for_state(SERVICE, "inactive")
        assert sleeping.processes(SERVICE) == []
        assert sleeping.show(SERVICE, "Result") == "success"
        assert sleeping.show(SOCKET, "ActiveState") == "active"


@pytest.mark.usefixtures("bindings")
def test_systemctl_status_reads_like_a_sentence(sleeping: Machine) -> None:
    assert say(sleeping).status == 200
    sleeping.wait_until(
        lambda: status_line(sleeping) == "asleep in 300 s · hibari · 1 request served", "it says so"
    )
    assert "asleep in" in sleeping.systemctl("status", SERVICE)


@pytest.mark.slow
def test_health_checks_do_not_keep_it_awake(sleeping: Machine) -> None:
    configure(sleeping, idle_timeout=1)
    checked = 0
    sleeping.request("GET", "/healthz")
    first = sleeping.show(SERVICE, "InvocationID")
    while sleeping.show(SERVICE, "InvocationID") == first:
        checked += sleeping.request("GET", "/healthz").status == 200
    assert checked > 2


@pytest.mark.usefixtures("bindings")
def test_the_journal_has_fields_and_never_the_text(sleeping: Machine) -> None:
    mark = sleeping.journal.mark()
    say(sleeping, "A secret sentence.", **{"X-Request-Id": "request-7"})

    def is_ours(entry: Entry) -> bool:
        return entry.get("REQUEST_ID") == "request-7"

    entry = sleeping.journal.wait_for(is_ours, since=mark)
    assert entry["ENGINE"] == "hibari"
    assert int(entry["DURATION_MS"]) > 0
    assert entry["SYSLOG_IDENTIFIER"] == "stepaudiod"
    assert "secret" not in sleeping.journal.tail(mark, lines=1000)


KINDS = """\
import logging
from stepaudiod.systemd import start_logging
start_logging("info")
log = logging.getLogger("kinds")
log.debug("never seen")
log.warning("two\\nlines = %s", 1, extra={"REQUEST_ID": "r=1\\n2", "NUMBER": 7})
log.info("a line\\nand another · " * 50_000)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
log.critical("")
"""


def test_the_journal_takes_lines_and_sizes_of_every_kind(machine: Machine, bindings: str) -> None:
    unit = f"kinds-{zlib.crc32(bindings.encode())}.service"  # another one for each of the bindings
    start = f"Environment=PYTHONPATH={bindings}\nExecStart={sys.executable} /run/kinds.py"
    machine.write("/run/kinds.py", KINDS)
    machine.write(f"/run/systemd/system/{unit}", f"[Service]\nType=oneshot\n{start}\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit)
    machine.run("journalctl", "--sync")
    found = machine.run("journalctl", "--all", "--output=json", f"_SYSTEMD_UNIT={unit}").stdout
    entries = [json.loads(line) for line in found.splitlines()]
    assert [entry["PRIORITY"] for entry in entries] == ["4", "6", "3", "2"]
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"stepaudiod"}
    two, large, failed, empty = entries
    assert (two["MESSAGE"], two["REQUEST_ID"], two["NUMBER"]) == ("two\nlines = 1", "r=1\n2", "7")
    assert (two["LOGGER"], two["CODE_FUNC"], two["CODE_FILE"]) == ("kinds", "<module>", "/run/kinds.py")
    assert (two["THREAD_NAME"], two["CODE_LINE"]) == ("MainThread", "6")
    assert large["MESSAGE"] == "a line\nand another · " * 50_000
    assert failed["MESSAGE"].startswith("failed\nTraceback")
    assert failed["EXCEPTION_TEXT"].endswith("ZeroDivisionError: division by zero")
    assert empty["MESSAGE"] == ""


def test_a_killed_worker_costs_only_the_request_in_flight(sleeping: Machine) -> None:
    assert say(sleeping).status == 200
    (worker,) = sleeping.workers(SERVICE)
    front = sleeping.main_process(SERVICE)
    os.kill(worker, signal.SIGKILL)
    sleeping.wait_for_exit(worker)
    assert say(sleeping).status == 200
    assert sleeping.main_process(SERVICE) == front
    assert sleeping.workers(SERVICE) != [worker]


@pytest.mark.slow
def test_a_killed_front_ends_its_worker_and_the_socket_still_answers(sleeping: Machine) -> None:
    assert say(sleeping).status == 200
    (worker,) = sleeping.workers(SERVICE)
    os.kill(sleeping.main_process(SERVICE), signal.SIGKILL)
    sleeping.wait_for_exit(worker)
    assert say(sleeping).status == 200
    assert sleeping.show(SOCKET, "ActiveState") == "active"


@pytest.mark.slow
@pytest.mark.usefixtures("bindings")
def test_a_front_that_hangs_is_replaced_by_the_watchdog(sleeping: Machine) -> None:
    sleeping.drop_in(SERVICE, "[Service]\nWatchdogSec=1s\n")
    sleeping.request("GET", "/healthz")
    front = sleeping.main_process(SERVICE)
    os.kill(front, signal.SIGSTOP)
    sleeping.wait_for_exit(front, timeout_s=30)
    assert sleeping.request("GET", "/healthz").status == 200


@pytest.mark.slow
def test_reload_applies_the_configuration_and_notifies_the_manager(sleeping: Machine) -> None:
    sleeping.request("GET", "/healthz")
    front = sleeping.main_process(SERVICE)
    configure(sleeping, idle_timeout='"never"')
    sleeping.systemctl("reload", SERVICE)
    sleeping.wait_until(lambda: status_line(sleeping).startswith("awake for good"), "it never sleeps now")
    configure(sleeping, idle_timeout='"soon"')
    mark = sleeping.journal.mark()
    sleeping.systemctl("reload", SERVICE)
    sleeping.journal.wait_for(
        lambda entry: f"{CONFIG}: idle_timeout" in str(entry.get("MESSAGE")), since=mark
    )
    assert sleeping.request("GET", "/healthz").status == 200
    assert sleeping.main_process(SERVICE) == front


@pytest.mark.slow
def test_stop_finishes_requests_in_flight(sleeping: Machine) -> None:
    say(sleeping)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reply = pool.submit(say, sleeping, LONG)
        sleeping.wait_until(lambda: status_line(sleeping).startswith("speaking to 1"), "it speaks")
        sleeping.systemctl("stop", SERVICE)
        assert reply.result().status == 200
        assert len(reply.result().body) > 24_000 * 2 * 60
    assert sleeping.show(SERVICE, "Result") == "success"
    assert sleeping.processes(SERVICE) == []
    assert say(sleeping).status == 200, "the socket still listens"


@pytest.mark.slow
def test_stopping_the_socket_stops_all(sleeping: Machine) -> None:
    sleeping.request("GET", "/healthz")
    sleeping.systemctl("stop", SOCKET)
    assert sleeping.show(SERVICE, "ActiveState") == "inactive"
    with pytest.raises(OSError, match="refused"):
        sleeping.connect()


@pytest.mark.slow
def test_a_broken_configuration_answers_503_and_the_socket_survives(sleeping: Machine) -> None:
    configure(sleeping, idle_timout=5)
    mark = sleeping.journal.mark()
    for _ in range(5):
        reply = sleeping.request("GET", "/v1/models")
        assert reply.status == 503
        error = json.loads(reply.body)["error"]
        assert error["code"] == "config_invalid"
        assert f"{CONFIG}: idle_timout: there is no such key" in error["message"]
    sleeping.journal.wait_for(lambda entry: "idle_timout" in str(entry.get("MESSAGE")), since=mark)
    configure(sleeping)
    sleeping.wait_for_state(SERVICE, "inactive")
    assert sleeping.show(SOCKET, "ActiveState") == "active"
    assert say(sleeping).status == 200, "mended, it works without a restart"


@pytest.mark.slow
def test_the_socket_of_the_former_api_serves_the_api_alone(sleeping: Machine) -> None:
    sleeping.systemctl("start", API_SOCKET)
    assert sleeping.request("GET", "/healthz", at=API).status == 200
    assert sleeping.request("GET", "/healthz", at=("::1", 8003)).status == 200
    assert say(sleeping, at=API).status == 200
    assert sleeping.request("GET", "/", at=API).status == 404
    assert sleeping.request("GET", "/", at=TCP4).status == 200
    assert len(sleeping.workers(SERVICE)) == 1, "one worker serves both"


@pytest.mark.slow
def test_each_instance_has_its_own_configuration(machine: Machine) -> None:
    units = [f"stepaudiod@gpu{n}.{kind}" for n in (0, 1) for kind in ("service", "socket")]
    try:
        for number in (0, 1):
            text = f'engine = "hibari"\nidle_timeout = {100 + number * 100}\n'
            machine.write(f"/etc/stepaudiod/instances/gpu{number}.toml", text)
            machine.systemctl("start", f"stepaudiod@gpu{number}.socket")
            assert say(machine, at=f"/run/stepaudiod-gpu{number}.sock").status == 200
        for number in (0, 1):
            reply = machine.request("GET", "/api/v1/models/status", at=f"/run/stepaudiod-gpu{number}.sock")
            assert json.loads(reply.body)["hibari"]["idle_timeout"] == 100 + number * 100
            assert len(machine.processes(f"stepaudiod@gpu{number}.service")) == 2
    finally:
        machine.reset(*units)


@pytest.mark.slow
def test_no_connection_is_lost_around_idle_exits(sleeping: Machine) -> None:
    configure(sleeping, idle_timeout=0.1)
    mark = sleeping.journal.mark()

    def call_again_and_again(seed: int) -> list[bytes]:
        luck = random.Random(seed)
        answers = []
        for _ in range(110):
            time.sleep(luck.uniform(0, 0.7))  # a random instant is the point of this test
            with closing(sleeping.connect(luck.choice([TCP4, TCP6, UNIX]))) as connection:
                if luck.random() < 0.25:
                    time.sleep(luck.uniform(0, 0.4))
                connection.sendall(HEALTH)
                answers.append(read_all(connection))
        return answers

    with concurrent.futures.ThreadPoolExecutor(3) as clients:
        answers = [answer for each in clients.map(call_again_and_again, range(3)) for answer in each]
    assert len(answers) == 330
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    exits = [e for e in sleeping.journal.since(mark) if "asleep until the next" in str(e.get("MESSAGE"))]
    assert len(exits) > 20, "there were too few exits to show anything"
    assert sleeping.show(SOCKET, "Result") == "success"


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
