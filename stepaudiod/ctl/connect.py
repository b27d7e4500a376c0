"""A client of the daemon that the command line names. The HTTP library is imported when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepaudiod.ctl.client import Client
    from stepaudiod.ctl.options import Options
    from stepaudiod.ctl.terminal import Terminal


def connect(options: Options, terminal: Terminal) -> Client:
    """Make the client; its first request opens the connection."""
    from stepaudiod.ctl.client import Client

    return Client(options, terminal)
