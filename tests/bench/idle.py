"""The cost of an idle front: `python -m tests.bench.idle [SECONDS]`.

Model files are there, as `models pull` leaves them, with an index as long as the published one; then a tab of
the page watches, then ten. Prints the share of one core that the front's threads ran: proc_pid_schedstat.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from tests.activation import DaemonProcess
from tests.bench.measure import machine
from tests.editx.trees import write_tree

PUBLISHED_TENSORS = 500
TABS = (0, 1, 10)
SETTLE_S = 3.0


def write_models(data: Path) -> None:
    """Write the smallest checkpoint, whose index names as many tensors as the published one."""
    index = write_tree(data / "models", "micro").model / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    shard = next(iter(table["weight_map"].values()))
    for number in range(PUBLISHED_TENSORS):
        table["weight_map"][f"model.layers.{number}.self_attn.q_proj.weight"] = shard
    index.write_text(json.dumps(table))


def run_ns(pid: int) -> int:
    """CPU nanoseconds of a process's threads."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def share(pid: int, seconds: float) -> float:
    """The fraction of one core that a process uses during that time."""
    before, began = run_ns(pid), time.monotonic()
    time.sleep(seconds)
    return (run_ns(pid) - before) / 1e9 / (time.monotonic() - began)


class Tab:
    """An open tab: it reads the page's event stream and sends no requests."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=None)
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._began.wait(60)

    def _read(self) -> None:
        gone = contextlib.suppress(httpx.RemoteProtocolError)
        with gone, self._client.stream("GET", "/page/watch") as answer:
            for _ in answer.iter_bytes():
                self._began.set()


def main() -> None:
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_models(data)
        daemon = DaemonProcess(Path(folder), {"data_dir": data, "engine": "auto", "idle_timeout": 3600})
        try:
            daemon.notify.wait_for("READY=1")
            tabs: list[Tab] = []
            for count in TABS:
                tabs += [Tab(daemon.url) for _ in range(count - len(tabs))]
                time.sleep(SETTLE_S)
                taken = share(daemon.process.pid, seconds)
                print(f"{count:2} tabs: {taken:.3%} of a core over {seconds:.0f} s")
        finally:
            daemon.end()


if __name__ == "__main__":
    main()
