"""Answers every request with 503 where the daemon can't be imported. Needs the standard library only.

A process that exited instead would be restarted again and again, with its clients waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from contextlib import suppress
from functools import partial

from stepaudiod.errors import ConfigError
from stepaudiod.systemd import Listener, Notifier, activated, activated_listeners, start_logging

log = logging.getLogger(__name__)

LIFETIME_S = 60.0
"""After this time the process exits, and the next connection tries the installation again."""
TICK_S = 5.0
"""Time between two signs of life for the watchdog."""
REQUEST_TIMEOUT_S = 10.0

FAILURE = "stepaudiod can't start, its installation is broken."
ADVICE = "Install it again, then: systemctl restart stepaudiod.service. The journal has the details."


def refuse_everything(error: Exception) -> int:
    """Serve the error on the sockets from systemd; returns the exit status.

    The reason is sent to this machine only.

    Raises:
        Exception: the error itself, if no manager passed sockets.
    """
    if not activated():
        raise error
    start_logging("info")
    log.error("%s Every request gets 503. %s", FAILURE, ADVICE, exc_info=error)
    asyncio.run(_serve(activated_listeners(), f"{type(error).__name__}: {error}."))
    return 0


async def _serve(listeners: list[Listener], reason: str) -> None:
    """Answer until a signal, or for LIFETIME_S."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    servers = []
    for listener in listeners:
        said = "" if listener.reach == "network" else f"{reason} "
        answer = partial(_answer, response=_response(f"{FAILURE} {said}{ADVICE}"))
        servers.append(await asyncio.start_server(answer, sock=listener.socket))
    notifier = Notifier()
    notifier.ready()
    notifier.status(f"{FAILURE} {reason}")
    end = loop.time() + LIFETIME_S
    while not ended.is_set() and (left_s := end - loop.time()) > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), min(TICK_S, left_s))
        notifier.watchdog()
    for server in servers:
        server.close()
    notifier.stopping()
    if open_connections := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(open_connections, timeout=REQUEST_TIMEOUT_S)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: bytes) -> None:
    with suppress(OSError, EOFError, asyncio.LimitOverrunError):
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response)
            writer.write_eof()
            while await reader.read(1 << 16):
                pass  # with data unread, closing would reset the connection before the response is read
    writer.close()


def _response(message: str) -> bytes:
    error = {"message": message, "type": "server_error", "param": None, "code": ConfigError.code}
    body = json.dumps({"error": error}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body
