"""Connects to the daemon. The HTTP library is imported on the first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepaudiod.ctl.client import Client
    from stepaudiod.ctl.options import Options
    from stepaudiod.ctl.terminal import Terminal


def connect(options: Options, terminal: Terminal) -> Client:
    from stepaudiod.ctl.client import Client

    return Client(options, terminal)
