"""Temporary folders of a process, and the removal of those left by killed processes.

A folder in use is locked (flock(2)) by its process, and the kernel releases the lock when that process ends.
A folder that can be locked is therefore abandoned, and other running instances lose nothing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

UNFINISHED = ".new-"
"""Prefix of folders that are renamed into place when they are complete."""
LEAVING = ".gone-"
"""Prefix of folders whose contents are being deleted."""
OWN = re.compile(r"\.(new|gone)-.*")


class TempDir:
    """A temporary folder, readable by its owner only; removed by `close`, or by a later process's `sweep`."""

    def __init__(self, parent: Path, prefix: str) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            try:
                self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # swept by another process before the lock was taken
                continue
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                return
            os.close(self._lock)

    def close(self) -> None:
        """Remove the folder, unless it has been renamed."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep(
    parent: Path, names: re.Pattern[str] = OWN, may_remove: Callable[[Path], bool] = lambda path: True
) -> None:
    """Remove this user's abandoned folders that these names match in `parent`, which may be missing."""
    try:
        found = [entry for entry in os.scandir(parent) if names.fullmatch(entry.name)]
    except OSError:  # an unreadable folder is reported where it is used
        return
    for entry in found:
        try:
            number = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(number).st_uid == os.geteuid() and may_remove(Path(entry.path)):
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path)
                log.info("removed %s, left by a killed process", entry.path)
        except BlockingIOError:  # in use
            continue
        except OSError as error:
            log.warning("%s was left by a killed process and can't be removed: %s", entry.path, error)
        finally:
            os.close(number)
