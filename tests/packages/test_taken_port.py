"""The installation while another program listens at the daemon's port."""

from __future__ import annotations

from tests.systemd.machine import Machine

OTHER = ("/usr/bin/python3", "-m", "http.server", "7860")


def test_a_taken_port_is_said_and_does_not_fail_the_installation(machine: Machine) -> None:
    machine.run("systemd-run", "--unit=other", *OTHER)
    machine.wait_until(lambda: 7860 in machine.listening_ports(), "the other program listens")
    done = machine.run(
        "apt-get", "install", "--yes", "-o", "Dpkg::Use-Pty=0", "--no-install-recommends", "stepaudiod",
        timeout_s=120,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert "127.0.0.1:7860 is taken: python3 -m http.server (process" in text
    assert "To stop it: sudo systemctl stop other.service" in text
    assert "Then: sudo systemctl restart stepaudiod.socket" in text
    status = machine.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", "stepaudiod")
    assert status.stdout == "installed"
    machine.systemctl("stop", "other.service")
    machine.systemctl("restart", "stepaudiod.socket")
    assert machine.request("GET", "/healthz").status == 200
