"""Requests at random times around idle exits: none is lost."""

from __future__ import annotations

from collections.abc import Callable

from tests.activation import Activator
from tests.attack.conftest import Tally
from tests.bench.exits import Client

IDLE_S = 0.2
CLIENTS, CALLS = 3, 20


def test_no_request_is_lost_around_an_idle_exit(
    activator: Callable[[dict[str, object]], Activator], tally: Tally, scale: int
) -> None:
    systemd = activator({"idle_timeout": IDLE_S})
    clients = [Client(seed, CALLS * scale, systemd.address, IDLE_S) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    answered = sum(client.answered for client in clients)
    tally(f"requests around {systemd.starts:,} idle exits", CLIENTS * CALLS * scale, answered)
    assert [loss for client in clients for loss in client.lost] == []
    assert answered == CLIENTS * CALLS * scale
