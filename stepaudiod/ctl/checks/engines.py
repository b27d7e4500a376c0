"""The configuration, the model files and the engine that would serve. Imports no engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from stepaudiod.config import DEFAULT_PATH, Settings, files, load
from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.sandbox import Seen
from stepaudiod.editx.checkpoint.layout import Checkpoint
from stepaudiod.engines.installed import catalog_of
from stepaudiod.engines.local_models import STEP_AUDIO
from stepaudiod.engines.registry import Catalog
from stepaudiod.errors import ConfigError, EngineUnavailable
from stepaudiod.obstacles import READ, Needed, Obstacle, Own

PUBLISHED_BYTES = 9_200_000_000
"""The size of Step-Audio-EditX, to be pulled."""
TORCH = ("torch", "safetensors")


def read_configuration(
    path: Path | None, environ: Mapping[str, str], view: Own | Seen
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
    else:
        found = _readable(path, file, view)
    return settings, [found]


def _readable(path: Path | None, file: Path, view: Own | Seen) -> Finding:
    """Whether the daemon may read the file and its drop-ins, and list their folders."""
    drop_ins = file.parent / "conf.d"
    needed = (Needed(each, READ, each, "configuration") for each in (file.parent, drop_ins, *files(path)))
    try:
        obstacle = view.first(needed)
    except PermissionError:
        return unknown("configuration", f"you may not look into {file.parent}", "sudo stepaudioctl doctor")
    if obstacle is not None:
        return problem("configuration", obstacle.problem, obstacle.advice)
    return ok("configuration", f"{file} is valid")


@dataclass
class Models:
    """The models and voices of these settings, as the daemon sees them."""

    settings: Settings
    view: Own | Seen

    @property
    def data(self) -> Path:
        return self.settings.data_path

    @property
    def root(self) -> Path:
        return self.settings.models_path

    @property
    def is_hidden(self) -> bool:
        """Whether the current user may not look into the folder."""
        try:
            os.listdir(self.data)
            os.listdir(self.root)
        except OSError as error:
            return not isinstance(error, FileNotFoundError | NotADirectoryError)
        return False

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.root)

    @property
    def is_present(self) -> bool:
        return not self.is_hidden and self.checkpoint.model.is_dir()

    @property
    def is_complete(self) -> bool:
        return self.is_present and next(self.checkpoint.problems(), None) is None

    @cached_property
    def obstacle(self) -> Obstacle | None:
        """What keeps the daemon from reading models or voices."""
        models, voices, _ = self.settings.folders
        try:
            return self.view.first([models, voices._replace(want=READ)])
        except PermissionError:
            return None

    def findings(self) -> Iterator[Finding]:
        if self.is_hidden:
            yield unknown("model files", f"you may not look into {self.root}", "sudo stepaudioctl doctor")
            return
        for folder in (self.root, self.settings.voices_path):
            if folder.exists() and not folder.is_dir():
                yield problem(
                    "model files", f"{folder} isn't a folder", f"move it away, then: mkdir {folder}"
                )
        if self.obstacle is not None:  # reported with the folders
            return
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
        models, _, _ = self.settings.folders
        if obstacle := self.view.first(models._replace(path=path) for path in self.checkpoint.files()):
            yield problem("model files", obstacle.problem, obstacle.advice)
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
    problem_seen = "" if models.obstacle is None else str(models.obstacle)
    catalog = Catalog() if models.is_hidden else catalog_of(settings, problem_seen)
    try:
        choice = catalog.choose(settings.engine)
    except EngineUnavailable as error:
        if models.is_hidden:
            return unknown("engine", f'engine = "{settings.engine}" can\'t be checked as this user: {error}')
        return problem("engine", f'engine = "{settings.engine}": {error}', "see the message")
    text = f'"{settings.engine}" selects {choice.engine.name}: {choice.reason}'
    if models.is_hidden:
        text = f"{choice.engine.name}, unless {STEP_AUDIO} is in {models.root}, which you may not look into"
        return note("engine", text, "sudo stepaudioctl doctor")
    return ok("engine", text)
