"""Temporary folders of a process, and the removal of those that killed processes have left.

A folder in use is locked (flock(2)) by the process that made it, and the kernel releases the lock when that
process ends, however it ends. A folder that can be locked is therefore abandoned, and an instance that runs
beside this one loses nothing.
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
from types import TracebackType

log = logging.getLogger(__name__)

UNFINISHED = ".new-"
"""How the name of a folder begins that is renamed into place when it is whole."""
LEAVING = ".gone-"
"""How the name of a folder begins that something was moved into to be deleted."""
OWN = re.compile(r"\.(new|gone)-.*")


class TempDir:
    """A temporary folder, readable by its owner alone; removed by `close`, or by a later process's `sweep`.

    Args:
        parent: the folder that it is made in.
        prefix: how its name begins.

    Raises:
        OSError: it can't be made.
    """

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
        """Remove it, if it has not been renamed."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def sweep(
    parent: Path, names: re.Pattern[str] = OWN, may_remove: Callable[[Path], bool] = lambda path: True
) -> None:
    """Remove the abandoned folders of this user in a folder.

    Args:
        parent: the folder; it may be missing.
        names: what their names match.
        may_remove: a second look at one of them.
    """
    try:
        found = [entry for entry in os.scandir(parent) if names.fullmatch(entry.name)]
    except OSError:  # what can't be read is reported where it is used
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
                log.info("removed %s, which a process that was killed had left", entry.path)
        except BlockingIOError:  # in use
            continue
        except OSError as error:
            log.warning(
                "%s was left by a process that was killed, and can't be removed: %s", entry.path, error
            )
        finally:
            os.close(number)
