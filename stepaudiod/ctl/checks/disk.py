"""The folders that the daemon uses: existence, its access to them, free space."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stepaudiod.config import Settings
from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.sandbox import Seen
from stepaudiod.obstacles import READ, Needed, Own, quoted

GB = 10**9
MIN_FREE_BYTES = GB // 2


def folder_findings(settings: Settings, view: Own | Seen, models_bytes: int) -> Iterator[Finding]:
    """Check that the daemon can use its folders, and their free space; models may take `models_bytes`."""
    models, voices, cache = settings.folders
    data = voices._replace(path=voices.top)
    is_apart = models.path == models.top
    found = [_finding("data folder", data, view, 0 if is_apart else models_bytes)]
    if is_apart:
        found.append(_finding("models folder", models, view, models_bytes))
    found.append(_finding("cache folder", cache, view, 0))
    yield from found
    if found[0].level not in ("ok", "note"):
        return
    inner = [
        finding
        for subject, needed in (("models folder", models), ("voices folder", voices))
        if needed.path != needed.top
        and (finding := _finding(subject, needed, view, 0)).level in ("problem", "unknown")
    ]
    yield from inner or _voice_findings(voices, view)


def _voice_findings(voices: Needed, view: Own | Seen) -> Iterator[Finding]:
    """A stored voice that the daemon may not read, such as one that root has copied there."""
    paths = (
        Path(folder, name)
        for folder, folders, names in os.walk(voices.path)
        for name in (*sorted(folders), *sorted(names))
    )
    with suppress(PermissionError):  # reported as a folder that this user may not look into
        if obstacle := view.first(voices._replace(path=path, want=READ) for path in paths):
            yield problem("voices folder", obstacle.problem, obstacle.advice)


def _finding(subject: str, needed: Needed, view: Own | Seen, wanted_bytes: int) -> Finding:
    path = needed.path
    try:
        obstacle = view.first([needed])
        is_there, is_folder = path.exists(), path.is_dir()
    except PermissionError:
        return unknown(subject, f"you may not look into {path}", "sudo stepaudioctl doctor")
    if is_there and not is_folder:
        return problem(subject, f"{path} isn't a folder", f"move it away, then: mkdir {quoted(path)}")
    if obstacle is not None:
        return problem(subject, obstacle.problem, obstacle.advice)
    return _free_space(subject, path, wanted_bytes)


def _free_space(subject: str, path: Path, wanted_bytes: int) -> Finding:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    text = f"{path}, {free / GB:.1f} GB free"
    if free < MIN_FREE_BYTES:
        return problem(
            subject, text, "free some space there, or use another disk: sudo stepaudioctl models move DIR"
        )
    if free < wanted_bytes:
        return note(
            subject,
            f"{text}; Step-Audio-EditX, if you pull it, takes about {wanted_bytes / GB:.0f} GB",
            "free some space first, or use another disk: sudo stepaudioctl models move DIR",
        )
    return ok(subject, text)
