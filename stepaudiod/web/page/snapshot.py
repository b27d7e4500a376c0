"""The page as files: made once by a child process, kept in the cache until gradio or the page changes.

The front never imports gradio. That takes seconds, during which health checks would wait for their turn.
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
from stepaudiod.temp_dirs import UNFINISHED, TempDir

log = logging.getLogger(__name__)

SOURCES = ("blocks.py", "gradio_import.py", "render.py", "words.json")
"""What the files depend on, beside gradio itself."""
TELL_BYTES = 2000


def gradio_folder() -> Path | None:
    """Where gradio's scripts are; None where it isn't installed."""
    spec = find_spec("gradio")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "templates/frontend"


class Snapshot:
    """The page's files.

    Args:
        cache: where files go that can be made again.
        idle: making them is work.
    """

    def __init__(self, cache: Callable[[], Path], idle: IdleClock) -> None:
        self.problem = ""
        """Why they could not be made."""
        self._cache = cache
        self._idle = idle
        self._key = ""
        self._making: asyncio.Task[None] | None = None

    @property
    def folder(self) -> Path:
        """Where they are, or will be."""
        if not self._key:
            digest = hashlib.sha256(f"{__version__} {version('gradio')}".encode())
            for name in SOURCES:
                digest.update((Path(__file__).parent / name).read_bytes())
            self._key = digest.hexdigest()[:16]
        return self._cache() / "page" / self._key

    @property
    def is_ready(self) -> bool:
        """Whether they are there."""
        return os.path.isdir(self.folder)  # a cache that may not be searched has none

    def read(self, name: str) -> bytes:
        """One of them."""
        return (self.folder / name).read_bytes()

    def prepare(self, then: Callable[[], None]) -> None:
        """Have them made, unless they are there or being made.

        Args:
            then: what waits until the processor is free again; called whether they could be made or not.
        """
        if not self.is_ready and (self._making is None or self._making.done()):
            self.problem = ""
            self._making = asyncio.create_task(self._make(then))

    async def _make(self, then: Callable[[], None]) -> None:
        """Run the child; what it says when it fails is for the journal and for the page."""
        self._idle.begin()
        try:
            await self._render()
        except OSError as error:
            self._fail(f"The page's files can't be written: {error}.")
        finally:
            self._idle.end()
        then()

    async def _render(self) -> None:
        parent = self.folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        scratch = TempDir(parent, UNFINISHED)
        unfinished = scratch.path
        command = [sys.executable, "-P", "-m", "stepaudiod.web.page.render", str(unfinished)]
        # gradio would write below the home folder, and would tell its makers that it was started
        environ = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(unfinished)}
        environ |= {"HF_HUB_OFFLINE": "1", "MPLCONFIGDIR": str(unfinished)}
        environ.pop("NOTIFY_SOCKET", None)
        try:
            child = await asyncio.create_subprocess_exec(
                *command, env=environ, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
            )
            try:
                _, said = await child.communicate()
            except asyncio.CancelledError:
                child.kill()
                raise
            if child.returncode:
                self._fail(
                    f"The page could not be made: {said[-TELL_BYTES:].decode(errors='replace').strip()}"
                )
                return
            self._put_in_place(unfinished)
        finally:
            scratch.close()

    def _put_in_place(self, made: Path) -> None:
        """From here on everybody gets the new files; those of other versions go."""
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
