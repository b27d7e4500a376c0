"""`stepaudioctl status`: the daemon's state, the loaded models, the time until it sleeps."""

from __future__ import annotations

import argparse
from typing import Any

from stepaudiod.ctl.connect import connect
from stepaudiod.ctl.daemons import find_daemon
from stepaudiod.ctl.options import Options
from stepaudiod.ctl.systemctl import is_asleep
from stepaudiod.ctl.terminal import Terminal, plain, table

NAME = "status"
SUMMARY = "show the daemon's state; this wakes it, unless --no-wake"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wake",
        action="store_true",
        help="don't wake a sleeping daemon, report that it sleeps (from systemd; exit code 3 if unknown)",
    )


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    options = find_daemon(options, terminal)
    if arguments.no_wake and is_asleep(options):
        terminal.result({"asleep": True}, "asleep: nothing runs until a client connects")
        return
    with connect(options, terminal) as client:
        status = client.get("/api/v1/models/status")
    terminal.result({"asleep": False, **status} if arguments.no_wake else status, _report(status))


def _report(status: dict[str, Any]) -> str:
    models = {n: m for n, m in status.items() if n != "daemon" and m.get("model", n) == n}
    daemon = status.get("daemon", {})
    requests = ", ".join(f"{count} {outcome}" for outcome, count in daemon.get("requests", {}).items())
    lines = [
        ("stepaudiod", f"{daemon.get('version', '?')} · {daemon.get('status', '?')}"),
        ("engine", f"{daemon.get('engine') or 'none'} ({daemon.get('reason', '?')})"),
        ("worker", _worker(daemon)),
        (
            "now",
            daemon.get("loading")
            or f"{daemon.get('active', 0)} being served, {daemon.get('queued', 0)} waiting",
        ),
        ("since start", requests or "nothing"),
    ]
    report = "\n".join(f"{name:<12} {plain(str(text))}" for name, text in lines)
    rows = [
        (
            name,
            "yes" if model.get("loaded") else "no",
            _seconds(model.get("time_until_unload")),
            f"{model.get('gpu_memory_allocated_gb', 0):.1f} GB",
        )
        for name, model in models.items()
    ]
    return f"{report}\n\n{table(('MODEL', 'LOADED', 'SLEEPS IN', 'GPU MEMORY'), rows)}"


def _worker(daemon: dict[str, Any]) -> str:
    if not daemon.get("worker_pid"):
        return "none"
    return f"process {daemon['worker_pid']}, {daemon.get('worker_state', '?')}"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"
