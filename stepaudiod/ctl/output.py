"""Where audio is put that isn't played: a file that appears whole or not at all, or a pipe."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol

from stepaudiod.ctl.errors import IncompleteAudio, WrongUsage
from stepaudiod.ctl.terminal import write_out
from stepaudiod.ctl.wav import HEAD_BYTES, UNKNOWN_SIZE, wav_header

MOST_LINKS = 40


class Sink(Protocol):
    """Takes the audio of one request."""

    def write(self, data: bytes) -> bool:
        """Take the next bytes; says whether more are wanted."""

    def finish(self) -> None:
        """That was all."""

    def abort(self) -> None:
        """The rest won't come."""


class FileOutput:
    """A file that gets its name when it is complete.

    Args:
        path: the name; what isn't a plain file (a device, a named pipe) is written to directly.

    Raises:
        WrongUsage: nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        _require_own_links(path.absolute(), MOST_LINKS)
        self._path = Path(os.path.realpath(path))
        self._temporary: Path | None = None
        self._file: BinaryIO
        try:
            if self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode):
                self._file = self._path.open("wb")
                return
            number, name = tempfile.mkstemp(".part", f".{self._path.name[:200]}.", self._path.parent)
            self._temporary = Path(name)
            self._file = os.fdopen(number, "w+b")
            os.fchmod(number, 0o666 & ~_umask())
        except OSError as error:
            raise WrongUsage(f"{path} can't be written: {error.strerror}.") from None

    def write(self, data: bytes) -> bool:
        """Keep the next bytes."""
        try:
            self._file.write(data)
        except OSError as error:
            raise IncompleteAudio(
                f"{self._path} could not be written to its end: {error.strerror}."
            ) from None
        return True

    def finish(self) -> None:
        """Give the file its name."""
        try:
            if self._temporary is not None:
                _tell_wav_sizes(self._file)
            self._file.close()
            if self._temporary is not None:
                os.replace(self._temporary, self._path)
        except OSError as error:
            raise IncompleteAudio(
                f"{self._path} could not be written to its end: {error.strerror}."
            ) from None

    def abort(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


class PipeOutput:
    """Standard output. A reader that leaves early is a `BrokenPipeError`, which ends the command."""

    def write(self, data: bytes) -> bool:
        """Pass the next bytes on at once."""
        write_out(data)
        return True

    def finish(self) -> None:
        """Nothing is left to do."""

    def abort(self) -> None:
        """What has been read can't be taken back."""


def _require_own_links(path: Path, left: int) -> None:
    """Refuse links of other users but root: they may lead anywhere, and root may write anywhere.

    The kernel does so in folders like /tmp (proc_sys_fs(5), protected_symlinks), for what opens them.
    """
    for part in (*reversed(path.parents), path):
        if part.is_symlink():
            if left == 0 or part.lstat().st_uid not in (0, os.geteuid()):
                raise WrongUsage(f"{part} is a link that another user has made. Name the place itself.")
            _require_own_links(part.parent / os.readlink(part), left - 1)


def _umask() -> int:
    """The permissions that this process takes from new files; there is no way to ask without setting."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _tell_wav_sizes(file: BinaryIO) -> None:
    """A stream's WAV header says "length unknown". Here the length is known: some programs insist on it."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = wav_header(file.read(HEAD_BYTES))
    if header is None or header.size_bytes != UNKNOWN_SIZE or size_bytes > UNKNOWN_SIZE:
        return
    # each size is told in the four bytes before what it counts
    for begin in (8, header.begin):
        file.seek(begin - 4)
        file.write(struct.pack("<I", size_bytes - begin))
