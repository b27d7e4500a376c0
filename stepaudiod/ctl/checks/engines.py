"""The configuration, the engines and the model files: what `auto` would take, and why. Imports no engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stepaudiod.config import DEFAULT_PATH, Settings, load
from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.permissions import DAEMON, Account
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.engines.installed import catalog_of
from stepaudiod.engines.local_models import STEP_AUDIO
from stepaudiod.engines.registry import Catalog
from stepaudiod.errors import ConfigError, EngineUnavailable

SYSTEM_DATA = Path("/var/lib/stepaudiod")
SYSTEM_CACHE = Path("/var/cache/stepaudiod")
PUBLISHED_BYTES = 9_200_000_000
"""What pulling Step-Audio-EditX brings."""
TORCH = ("torch", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Configured:
    """The daemon's configuration, or what is wrong with it.

    Attributes:
        path: the file.
        settings: what it says; None where it is broken.
        trouble: what is broken.
    """

    path: Path
    settings: Settings | None
    trouble: str = ""

    @classmethod
    def read(cls, path: Path | None, environ: Mapping[str, str]) -> Configured:
        """Read it as the daemon would."""
        try:
            return cls(path or DEFAULT_PATH, load(path, environ=environ))
        except ConfigError as error:
            return cls(path or DEFAULT_PATH, None, error.message)

    def findings(self, account: Account | None) -> Iterator[Finding]:
        """What there is to say."""
        if self.trouble:
            for line in self.trouble.splitlines():
                yield problem(
                    "configuration", line, f"mend it; until then every request gets 503 ({self.path})"
                )
        elif not self.path.exists():
            yield ok("configuration", f"{self.path} isn't there, so all is default")
        elif account is not None and account.may(self.path, os.R_OK) is False:
            yield problem(
                "configuration",
                f"the user {account.name} may not read {self.path}",
                f"chmod a+r {self.path}",
            )
        else:
            yield ok("configuration", f"{self.path} is sound")


@dataclass(frozen=True)
class Models:
    """The model files, as far as they can be seen from here.

    Args:
        settings: the configuration.
        data: has `models` and `voices` in it.
    """

    settings: Settings
    data: Path

    @property
    def is_hidden(self) -> bool:
        """Whether the folder is somebody else's."""
        try:
            os.listdir(self.data)
            os.listdir(self.data / "models")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return False

    @property
    def checkpoint(self) -> Checkpoint:
        """Step-Audio-EditX."""
        return Checkpoint(self.data / "models")

    @property
    def has_some(self) -> bool:
        """Whether anything of Step-Audio-EditX is there."""
        return not self.is_hidden and self.checkpoint.model.is_dir()

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there."""
        return self.has_some and next(self.checkpoint.problems(), None) is None

    def findings(self, account: Account | None) -> Iterator[Finding]:
        """What there is to say."""
        if self.is_hidden:
            yield unknown(
                "model files", f"{self.data} can't be looked into without rights", "sudo stepaudioctl doctor"
            )
            return
        for folder in (self.data / "models", self.data / "voices"):
            if folder.exists() and not folder.is_dir():
                yield problem(
                    "model files", f"{folder} isn't a folder", f"move it away, then: mkdir {folder}"
                )
        if not self.has_some:
            yield note(
                "model files",
                f"{STEP_AUDIO} isn't here; the embedded voices speak without it",
                f"to clone and edit voices: sudo stepaudioctl models pull {STEP_AUDIO}",
            )
            return
        broken = list(self.checkpoint.problems())
        for trouble in broken:
            yield problem("model files", str(trouble), f"sudo stepaudioctl models pull {STEP_AUDIO}")
        if broken:
            return
        shut = [
            path
            for path in self.checkpoint.files()
            if account is not None and account.may(path, os.R_OK) is False
        ]
        if shut and account is not None:
            yield problem(
                "model files",
                f"the user {account.name} may not read {shut[0]}"
                + (f" and {len(shut) - 1} more" if len(shut) > 1 else ""),
                f"chown -R {DAEMON}:{DAEMON} {self.data / 'models'}",
            )
            return
        size = self.checkpoint.size_bytes()
        yield ok("model files", f"{STEP_AUDIO}, {size / 1e9:.1f} GB, every file as long as it should be")
        if missing := [name for name in TORCH if find_spec(name) is None]:
            yield problem(
                "model files",
                f"they are here, and what computes with them isn't: {', '.join(missing)}",
                "apt install stepaudiod-runtime-cpu, or stepaudiod-runtime-cuda for an NVIDIA GPU",
            )


def engine_finding(models: Models) -> Finding:
    """Which engine would serve, and why."""
    settings = models.settings
    catalog = Catalog() if models.is_hidden else catalog_of(settings, models.data)
    try:
        choice = catalog.choose(settings.engine)
    except EngineUnavailable as error:
        if models.is_hidden:
            return unknown("engine", f'engine = "{settings.engine}" can\'t be judged without rights: {error}')
        return problem("engine", f'engine = "{settings.engine}": {error}', "see the sentence before")
    text = f'"{settings.engine}" takes {choice.engine.name}: {choice.reason}'
    if models.is_hidden:
        text = f"{choice.engine.name}, unless {STEP_AUDIO} lies in {models.data}, which can't be seen"
        return note("engine", text, "sudo stepaudioctl doctor")
    return ok("engine", text)
