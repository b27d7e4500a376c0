"""Output for users and programs: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO
from unicodedata import category

from stepaudiod.ctl.errors import CtlError, DaemonRefused, IncompleteAudio

ERASE_LINE = "\r\x1b[K"
NEWLINE = "\n"

UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that can control a terminal or change the order of other characters."""
JOINERS = "\u200c\u200d"
"""Characters of these categories that words and emoji need."""


class Terminal:
    def __init__(self, *, as_json: bool, is_quiet: bool) -> None:
        self.as_json = as_json
        self._is_quiet = is_quiet
        self._has_progress = False
        self.shows_progress = not is_quiet and not as_json and sys.stderr.isatty()
        """Whether progress is printed."""

    def result(self, value: Any, text: str, stream: TextIO | None = None) -> None:
        """Print the result: `value` as JSON, or `text`; an empty text is not printed."""
        if written := _as_json(value) if self.as_json else plain(text, keep=NEWLINE):
            if stream is None:
                write_out(f"{written}\n".encode())
            else:
                print(written, file=stream, flush=True)

    def note(self, text: str) -> None:
        if not self._is_quiet and not self.as_json:
            self.end_progress()
            print(plain(text, keep=NEWLINE), file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        if self.shows_progress:
            self._has_progress = True
            print(ERASE_LINE + plain(text), end="", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        if self._has_progress:
            self._has_progress = False
            print(ERASE_LINE, end="", file=sys.stderr, flush=True)

    def error(self, error: CtlError) -> None:
        self.end_progress()
        if not self.as_json:
            print(f"stepaudioctl: {plain(error.message, keep=NEWLINE)}", file=sys.stderr)
            return
        value: dict[str, Any] = {"message": error.message, "code": error.code, "exit_code": error.exit_code}
        if isinstance(error, DaemonRefused):
            value |= {"status": error.status, "param": error.param}
        print(_as_json({"error": value}), file=sys.stderr)


def write_out(data: bytes) -> None:
    """Write to standard output and flush it. A full disk is `IncompleteAudio`."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # the interpreter would flush the rest again at its exit, and print an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise IncompleteAudio(f"Standard output could not be written: {error.strerror}.") from None


def plain(text: str, keep: str = "") -> str:
    """Escape untrusted text's characters that can control the terminal, as in Python strings, but `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c in keep or c in JOINERS or category(c) not in UNSAFE else ascii(c)[1:-1] for c in text
    )


def _as_json(value: Any) -> str:
    """One line of JSON in which characters that can control a terminal are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if category(c) in UNSAFE else c for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[plain(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )
