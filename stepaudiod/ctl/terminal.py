"""What people and programs see: results on standard output, everything else on standard error."""

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
"""Categories of characters that command a terminal, or that change the order or the lines of others."""
JOINERS = "\u200c\u200d"
"""Of these, what words and emoji are written with."""


class Terminal:
    """The two streams.

    Args:
        as_json: results and errors are JSON, one object a line.
        is_quiet: no progress and no notes; results and errors remain.
    """

    def __init__(self, *, as_json: bool, is_quiet: bool) -> None:
        self.as_json = as_json
        self._is_quiet = is_quiet
        self._has_progress = False
        self.shows_progress = not is_quiet and not as_json and sys.stderr.isatty()
        """Whether somebody is watching."""

    def result(self, value: Any, text: str, stream: TextIO | None = None) -> None:
        """Print what was asked for: `value` for programs, `text` for people; nothing where it is empty."""
        if written := _as_json(value) if self.as_json else plain(text, keep=NEWLINE):
            if stream is None:
                write_out(f"{written}\n".encode())
            else:
                print(written, file=stream, flush=True)

    def note(self, text: str) -> None:
        """Tell a person something that no program needs."""
        if not self._is_quiet and not self.as_json:
            self.end_progress()
            print(plain(text, keep=NEWLINE), file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Replace the line that says how far we are."""
        if self.shows_progress:
            self._has_progress = True
            print(ERASE_LINE + plain(text), end="", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        """Leave no trace of that line."""
        if self._has_progress:
            self._has_progress = False
            print(ERASE_LINE, end="", file=sys.stderr, flush=True)

    def error(self, error: CtlError) -> None:
        """Say why the command failed."""
        self.end_progress()
        if not self.as_json:
            print(f"stepaudioctl: {plain(error.message, keep=NEWLINE)}", file=sys.stderr)
            return
        said: dict[str, Any] = {"message": error.message, "code": error.code, "exit_code": error.exit_code}
        if isinstance(error, DaemonRefused):
            said |= {"status": error.status, "param": error.param}
        print(_as_json({"error": said}), file=sys.stderr)


def write_out(data: bytes) -> None:
    """Write to standard output at once.

    Raises:
        BrokenPipeError: whoever read it has gone.
        IncompleteAudio: there is no room for it.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # the interpreter would try to write what is left once more at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        message = f"Standard output could not be written to its end: {error.strerror}."
        raise IncompleteAudio(message) from None


def plain(text: str, keep: str = "") -> str:
    """Text in which nothing commands the terminal: such characters are written as in Python.

    Args:
        text: from wherever: names of voices and models, paths, what a daemon or a hub has said.
        keep: characters that are let through.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c in keep or c in JOINERS or category(c) not in UNSAFE else ascii(c)[1:-1] for c in text
    )


def _as_json(value: Any) -> str:
    """One line of JSON: the same values, with what a terminal would obey written as JSON can."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if category(c) in UNSAFE else c for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [[plain(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )
