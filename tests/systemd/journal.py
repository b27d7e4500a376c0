"""The machine's journal, followed.

One follower lives as long as the machine, so that waiting for an entry costs nothing and misses nothing.

Knows nothing of units, except that entries name them.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

Entry = dict[str, Any]
"""One entry's fields, as `journalctl -o json` writes them: text, or a list of bytes where it isn't text."""


class Journal:
    """All entries since boot, and a way to wait for the next.

    Args:
        follow: a running `journalctl --follow -o json`, from the first entry on.
        sync: returns once the daemon behind the journal has written everything sent before.
        send: puts a message into the journal.
    """

    def __init__(
        self, follow: subprocess.Popen[bytes], sync: Callable[[], object], send: Callable[[str], object]
    ) -> None:
        self._follow = follow
        self._sync = sync
        self._send = send
        self._entries: list[Entry] = []
        self._grown = threading.Condition()
        self._marks = 0
        assert follow.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(follow.stdout,), daemon=True)
        self._reader.start()

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._entries)

    def mark(self) -> int:
        """The current end of the journal, for `since` and `wait_for`."""
        self._marks += 1
        text = f"mark {self._marks}"
        start = len(self._entries)
        self._sync()
        self._send(text)
        self._sync()  # the follower hears of an entry at once, and not a quarter of a second later
        self.wait_for(lambda entry: entry.get("MESSAGE") == text, since=start)
        return (
            next(n for n in range(start, len(self._entries)) if self._entries[n].get("MESSAGE") == text) + 1
        )

    def since(self, mark: int, **fields: str) -> list[Entry]:
        """The entries with these fields between the mark and now."""
        return _select(self._entries[mark : self.mark() - 1], fields)

    def wait_for(
        self, condition: Callable[[Entry], bool], *, since: int, timeout_s: float = 20, **fields: str
    ) -> Entry:
        """The first entry after the mark that has these fields and meets the condition.

        Raises:
            TimeoutError: there was none in time; the message ends with what there was.
        """
        deadline = time.monotonic() + timeout_s
        seen = since
        with self._grown:
            while True:
                for entry in _select(self._entries[seen:], fields):
                    if condition(entry):
                        return entry
                seen = len(self._entries)
                if not self._grown.wait(deadline - time.monotonic()):
                    raise TimeoutError(
                        f"not in the journal within {timeout_s} s; it says:\n{self.tail(since)}"
                    )

    def wait_for_growth(self, length: int, timeout_s: float) -> int:
        """Wait until there are more than `length` entries, or for the timeout; return their number."""
        with self._grown:
            self._grown.wait_for(lambda: len(self._entries) > length, timeout_s)
            return len(self._entries)

    def tail(self, since: int = 0, lines: int = 40) -> str:
        """The last lines as text."""
        return "\n".join(
            f"{entry.get('SYSLOG_IDENTIFIER', '?')}[{entry.get('_PID', '?')}]: {entry.get('MESSAGE')}"
            for entry in self._entries[since:][-lines:]
        )

    def close(self) -> None:
        """Stop following; the entries are kept."""
        self._follow.kill()
        self._follow.wait()
        self._reader.join()
        assert self._follow.stdout is not None
        self._follow.stdout.close()

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            entry = json.loads(line)
            with self._grown:
                self._entries.append(entry)
                self._grown.notify_all()


def _select(entries: Sequence[Entry], fields: dict[str, str]) -> list[Entry]:
    return [entry for entry in entries if all(entry.get(name) == value for name, value in fields.items())]
