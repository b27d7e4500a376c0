"""Output of audio to a file, which appears complete or not at all, or to a pipe."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol

from stepaudiod.audio.formats import UNKNOWN_WAV_SIZE
from stepaudiod.ctl.errors import IncompleteAudio, WrongUsage
from stepaudiod.ctl.privileges import MAX_LINKS
from stepaudiod.ctl.terminal import write_out
from stepaudiod.ctl.wav import HEAD_BYTES, wav_header


class Sink(Protocol):
    def write(self, data: bytes) -> bool:
        """Write the next bytes; return whether more are wanted."""

    def finish(self) -> None: ...

    def abort(self) -> None: ...


class FileOutput:
    """A file that gets its name when it is complete; a device or a named pipe is written directly."""

    def __init__(self, path: Path) -> None:
        _require_own_links(path.absolute(), MAX_LINKS)
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
        try:
            self._file.write(data)
        except OSError as error:
            raise IncompleteAudio(f"{self._path} could not be written: {error.strerror}.") from None
        return True

    def finish(self) -> None:
        try:
            if self._temporary is not None:
                _write_wav_sizes(self._file)
            self._file.close()
            if self._temporary is not None:
                os.replace(self._temporary, self._path)
        except OSError as error:
            raise IncompleteAudio(f"{self._path} could not be written: {error.strerror}.") from None

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


class PipeOutput:
    """Standard output. A reader that closes it early is a `BrokenPipeError`, which ends the command."""

    def write(self, data: bytes) -> bool:
        write_out(data)
        return True

    def finish(self) -> None: ...

    def abort(self) -> None:
        """Nothing can be done about what has been read."""


def _require_own_links(path: Path, left: int) -> None:
    """Refuse links of other users, except root's, as the kernel does in /tmp.

    Source: proc_sys_fs(5), protected_symlinks.
    """
    for part in (*reversed(path.parents), path):
        if part.is_symlink():
            if left == 0 or part.lstat().st_uid not in (0, os.geteuid()):
                raise WrongUsage(f"{part} is a link made by another user. Give the path without the link.")
            _require_own_links(part.parent / os.readlink(part), left - 1)


def _umask() -> int:  # it can't be read without being set
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _write_wav_sizes(file: BinaryIO) -> None:
    """Replace the unknown size in a stream's WAV header, since some programs need the real one."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = wav_header(file.read(HEAD_BYTES))
    if header is None or header.size_bytes != UNKNOWN_WAV_SIZE or size_bytes > UNKNOWN_WAV_SIZE:
        return
    # each size is in the four bytes before the data that it counts
    for begin in (8, header.begin):
        file.seek(begin - 4)
        file.write(struct.pack("<I", size_bytes - begin))
