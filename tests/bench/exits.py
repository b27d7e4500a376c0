"""Connections at random times around idle exits: `python -m tests.bench.exits [N]`.

Idle periods of 0.1 to 0.5 s; every fourth client dawdles up to 0.4 s between connecting and asking; some
leave a keep-alive connection open behind them.
"""

from __future__ import annotations

import random
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.activation import Activator
from tests.bench.measure import machine

ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
CLIENTS = 3


class Client(threading.Thread):
    """Sends requests, each after a pause of about the idle timeout."""

    def __init__(self, seed: int, calls: int, address: tuple[str, int], idle_s: float) -> None:
        super().__init__()
        self.answered = 0
        self.lost: list[str] = []
        self._luck = random.Random(seed)
        self._calls = calls
        self._address = address
        self._idle_s = idle_s

    def run(self) -> None:
        """Make the calls."""
        kept: list[socket.socket] = []
        for _ in range(self._calls):
            time.sleep(self._luck.uniform(0, 2 * self._idle_s + 0.4))
            try:
                kept += self._call()
            except OSError as error:
                self.lost.append(repr(error))
        for connection in kept:
            connection.close()

    def _call(self) -> list[socket.socket]:
        """Send a request; return the connection if it is kept open."""
        keep = self._luck.random() < 0.2
        connection = socket.create_connection(self._address, timeout=60)
        if self._luck.random() < 0.25:
            time.sleep(self._luck.uniform(0, 0.4))
        connection.sendall(ASK % (b"" if keep else b"Connection: close\r\n"))
        answer = connection.recv(4096)
        if answer.startswith(b"HTTP/1.1 200"):
            self.answered += 1
        else:
            self.lost.append(repr(answer[:60]))
        if keep:
            return [connection]
        connection.close()
        return []


def main() -> None:
    """Print the lost requests."""
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(machine())
    for idle_s in (0.1, 0.2, 0.3, 0.4, 0.5):
        with tempfile.TemporaryDirectory() as folder:
            systemd = Activator(Path(folder), {"engine": "hibari", "idle_timeout": idle_s})
            clients = [
                Client(seed, total // 5 // CLIENTS, systemd.address, idle_s) for seed in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            systemd.end()
            lost = [loss for client in clients for loss in client.lost]
            answered = sum(client.answered for client in clients)
            codes = sorted(set(systemd.exit_codes))
            counts = f"{answered} answered, {len(lost)} lost, {systemd.starts} starts"
            print(f"idle {idle_s} s: {counts}, exit codes {codes}")
            for loss in lost[:5]:
                print(f"  {loss}")


if __name__ == "__main__":
    main()
