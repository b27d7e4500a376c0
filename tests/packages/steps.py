"""What the tests of the packages do with a machine: install, speak, work under load, list all files."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from tests.systemd.machine import TCP4, TCP6, UNIX, Machine
from tests.systemd.network import Reply

SOCKET, SERVICE = "stepaudiod.socket", "stepaudiod.service"
SPEECH = json.dumps({"model": "hibari", "voice": "heart", "input": "Nothing runs until you call."}).encode()
LEFT_TO_OTHERS = (
    # apt's and dpkg's own books
    "/var/lib/apt/",
    "/var/lib/dpkg/",
    "/var/cache/apt/",
    "/var/log/",
    "/var/cache/ldconfig/",
    # the backups that the user tools keep of what they change
    *(f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")),
    # the group of graphics cards, which is systemd's to keep
    "/etc/group: render:",
    # debconf's books
    "/var/cache/debconf/",
    # Debian's python3-sdnotify, which others may use; autoremove takes it
    "/usr/lib/python3/dist-packages/",
    "/usr/share/python3/",
)


def snapshot(machine: Machine) -> dict[str, str]:
    listed = machine.run(
        *("find", "/etc", "/usr", "/lib/systemd", "/var", "/opt", "-xdev", "-printf", "%p\t%y %l\n"),
        check=False,
    )
    files = dict(line.split("\t") for line in listed.stdout.splitlines())
    accounts = [
        f"{name}: {line}"
        for name in ("/etc/passwd", "/etc/group")
        for line in machine.run("cut", "-d:", "-f1,4", name).stdout.splitlines()
    ]
    seen = files | dict.fromkeys(accounts, "")
    return {
        name: what
        for name, what in seen.items()
        if not name.startswith(LEFT_TO_OTHERS) and "__pycache__" not in name
    }


def install(machine: Machine, *what: str, timeout_s: float = 120) -> str:
    return machine.run(
        *("apt-get", "install", "--yes", "--allow-downgrades", "-o", "Dpkg::Use-Pty=0", *what),
        timeout_s=timeout_s,
    ).stdout


def speak(machine: Machine) -> Reply:
    return machine.request("POST", "/v1/audio/speech", SPEECH, timeout_s=60)


def running_version(machine: Machine) -> str:
    reply = machine.request("GET", "/api/v1/models/status")
    version: str = json.loads(reply.body)["daemon"]["version"]
    return version


def fall_asleep(machine: Machine) -> None:
    machine.wait_for_state(SERVICE, "inactive")
    assert machine.processes(SERVICE) == []


def under_load(machine: Machine, work: Callable[[], object], clients: int = 4) -> list[int]:
    """Do the work under load; returns the status of each response, 0 for none."""
    statuses: list[int] = []
    over = threading.Event()

    def ask(number: int) -> None:
        while not over.is_set():
            try:
                if number == 0:
                    reply = speak(machine)
                    good = reply.status == 200 and len(reply.body) > 5_000
                    statuses.append(200 if good else reply.status or 1)
                else:
                    at = (TCP4, TCP6, UNIX)[number % 3]
                    statuses.append(machine.request("GET", "/healthz", at=at, timeout_s=60).status)
            except Exception:
                statuses.append(0)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        work()
        time.sleep(1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return statuses
