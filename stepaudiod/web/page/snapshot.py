"""The page's files, made by a child process and cached until gradio or the page changes.

The front never imports gradio, which takes seconds and would block health checks.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from stepaudiod import __version__
from stepaudiod.idle import IdleClock
from stepaudiod.obstacles import WRITE, Needed, explain
from stepaudiod.temp_dirs import UNFINISHED, TempDir

log = logging.getLogger(__name__)

SOURCES = ("blocks.py", "gradio_import.py", "render.py", "words.json")
"""The files depend on these, besides gradio."""
MAX_STDERR_BYTES = 2000


def gradio_folder() -> Path | None:
    """The folder of gradio's scripts; None if gradio isn't installed."""
    spec = find_spec("gradio")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "templates/frontend"


class Snapshot:
    """The page's files, below a cache folder. Making them counts as work."""

    def __init__(self, cache: Callable[[], Path], idle: IdleClock) -> None:
        self.problem = ""
        """Why the files could not be made."""
        self._cache = cache
        self._idle = idle
        self._key = ""
        self._making: asyncio.Task[None] | None = None

    @property
    def folder(self) -> Path:
        if not self._key:
            digest = hashlib.sha256(f"{__version__} {version('gradio')}".encode())
            for name in SOURCES:
                digest.update((Path(__file__).parent / name).read_bytes())
            self._key = digest.hexdigest()[:16]
        return self._cache() / "page" / self._key

    @property
    def is_ready(self) -> bool:
        return os.path.isdir(self.folder)  # False also if the cache can't be searched

    def prepare(self, then: Callable[[], None]) -> None:
        """Make the files, unless they exist or are being made; `then` is called also after a failure."""
        if not self.is_ready and (self._making is None or self._making.done()):
            self.problem = ""
            self._making = asyncio.create_task(self._make(then))

    async def _make(self, then: Callable[[], None]) -> None:
        self._idle.begin()
        try:
            await self._render()
        except OSError as error:
            needed = Needed(self.folder.parent, WRITE, self._cache(), "cache")
            self._fail(f"The page's files can't be written: {error}.{explain(needed)}")
        finally:
            self._idle.end()
        then()

    async def _render(self) -> None:
        parent = self.folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        with TempDir(parent, UNFINISHED) as unfinished:
            command = [sys.executable, "-P", "-m", "stepaudiod.web.page.render", str(unfinished)]
            # gradio would write to the home folder, and send telemetry
            environ = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(unfinished)}
            environ |= {"HF_HUB_OFFLINE": "1", "MPLCONFIGDIR": str(unfinished)}
            environ.pop("NOTIFY_SOCKET", None)
            child = await asyncio.create_subprocess_exec(
                *command, env=environ, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
            )
            try:
                _, stderr = await child.communicate()
            except asyncio.CancelledError:
                child.kill()
                raise
            if child.returncode:
                reason = stderr[-MAX_STDERR_BYTES:].decode(errors="replace").strip()
                self._fail(f"The page could not be made: {reason}")
                return
            self._put_in_place(unfinished)

    def _put_in_place(self, made: Path) -> None:
        """Rename the new files into place; remove those of other versions."""
        if not self.is_ready:
            made.chmod(0o750)
            made.rename(self.folder)
        for other in self.folder.parent.iterdir():
            if other != self.folder and other != made and not other.name.startswith(UNFINISHED):
                shutil.rmtree(other, ignore_errors=True)
        log.info("the page is ready")

    def _fail(self, problem: str) -> None:
        log.error("%s", problem)
        self.problem = problem
