"""The configuration, the model files and the engine that would serve. Imports no engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stepaudiod.config import DEFAULT_PATH, Settings, load
from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.permissions import Account, lacks
from stepaudiod.ctl.options import ACCOUNT
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.engines.installed import catalog_of
from stepaudiod.engines.local_models import STEP_AUDIO
from stepaudiod.engines.registry import Catalog
from stepaudiod.errors import ConfigError, EngineUnavailable

PUBLISHED_BYTES = 9_200_000_000
"""The size of Step-Audio-EditX, to be pulled."""
TORCH = ("torch", "tokenizers", "safetensors")


def read_configuration(
    path: Path | None, environ: Mapping[str, str], account: Account | None
) -> tuple[Settings | None, list[Finding]]:
    """Read the configuration as the daemon does; None if it is invalid."""
    file = path or DEFAULT_PATH
    try:
        settings = load(path, environ=environ)
    except ConfigError as error:
        advice = f"correct it; until then every request gets 503 ({file})"
        return None, [problem("configuration", line, advice) for line in error.message.splitlines()]
    if not file.exists():
        found = ok("configuration", f"{file} doesn't exist, so the defaults apply")
    elif lacks(account, file, os.R_OK):
        found = problem("configuration", f"the user {ACCOUNT} may not read {file}", f"chmod a+r {file}")
    else:
        found = ok("configuration", f"{file} is valid")
    return settings, [found]


@dataclass(frozen=True)
class Models:
    settings: Settings
    data: Path

    @property
    def is_hidden(self) -> bool:
        """Whether the current user may not look into the folder."""
        try:
            os.listdir(self.data)
            os.listdir(self.data / "models")
        except OSError as error:
            return not isinstance(error, FileNotFoundError | NotADirectoryError)
        return False

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.data / "models")

    @property
    def is_present(self) -> bool:
        return not self.is_hidden and self.checkpoint.model.is_dir()

    @property
    def is_complete(self) -> bool:
        return self.is_present and next(self.checkpoint.problems(), None) is None

    def findings(self, account: Account | None) -> Iterator[Finding]:
        if self.is_hidden:
            yield unknown("model files", f"you may not look into {self.data}", "sudo stepaudioctl doctor")
            return
        for folder in (self.data / "models", self.data / "voices"):
            if folder.exists() and not folder.is_dir():
                yield problem(
                    "model files", f"{folder} isn't a folder", f"move it away, then: mkdir {folder}"
                )
        if not self.is_present:
            yield note(
                "model files",
                f"{STEP_AUDIO} isn't installed; the embedded voices work without it",
                f"to clone and edit voices: sudo stepaudioctl models pull {STEP_AUDIO}",
            )
            return
        errors = list(self.checkpoint.problems())
        for error in errors:
            yield problem("model files", str(error), f"sudo stepaudioctl models pull {STEP_AUDIO}")
        if errors:
            return
        if unreadable := [path for path in self.checkpoint.files() if lacks(account, path, os.R_OK)]:
            yield problem(
                "model files",
                f"the user {ACCOUNT} may not read {unreadable[0]}"
                + (f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""),
                f"chown -R {ACCOUNT}:{ACCOUNT} {self.data / 'models'}",
            )
            return
        size = self.checkpoint.size_bytes()
        yield ok("model files", f"{STEP_AUDIO}, {size / 1e9:.1f} GB, every file has the right size")
        if missing := [name for name in TORCH if find_spec(name) is None]:
            yield problem(
                "model files",
                f"packages that the model needs aren't installed: {', '.join(missing)}",
                "apt install stepaudiod-runtime-cpu, or stepaudiod-runtime-cuda for an NVIDIA GPU",
            )


def engine_finding(models: Models) -> Finding:
    settings = models.settings
    catalog = Catalog() if models.is_hidden else catalog_of(settings, models.data)
    try:
        choice = catalog.choose(settings.engine)
    except EngineUnavailable as error:
        if models.is_hidden:
            return unknown("engine", f'engine = "{settings.engine}" can\'t be checked as this user: {error}')
        return problem("engine", f'engine = "{settings.engine}": {error}', "see the message")
    text = f'"{settings.engine}" selects {choice.engine.name}: {choice.reason}'
    if models.is_hidden:
        text = f"{choice.engine.name}, unless {STEP_AUDIO} is in {models.data}, which you may not look into"
        return note("engine", text, "sudo stepaudioctl doctor")
    return ok("engine", text)
