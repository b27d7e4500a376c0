"""The folders that the daemon writes to: existence, permissions, free space."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.permissions import Account, lacks
from stepaudiod.ctl.options import ACCOUNT

GB = 10**9
MIN_FREE_BYTES = GB // 2


def folder_findings(
    path: Path, purpose: str, account: Account | None, wanted_bytes: int
) -> Iterator[Finding]:
    """Check that the account, or else the current user, can write to one folder."""
    subject = f"{purpose} folder"
    try:
        is_there, is_folder = path.exists(), path.is_dir()
    except PermissionError:
        yield unknown(subject, f"you may not look into {path}", "sudo stepaudioctl doctor")
        return
    if not is_there and account is not None:
        yield problem(subject, f"{path} doesn't exist", "systemd-tmpfiles --create")
        return
    if is_there and not is_folder:
        yield problem(subject, f"{path} isn't a folder", f"move it away, then: mkdir {path}")
        return
    if lacks(account, path, os.W_OK | os.X_OK):
        advice = f"chown -R {ACCOUNT}:{ACCOUNT} {path}"
        yield problem(subject, f"the user {ACCOUNT} may not write to {path}", advice)
        return
    yield _free_space(subject, path, wanted_bytes)


def _free_space(subject: str, path: Path, wanted_bytes: int) -> Finding:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    text = f"{path}, {free / GB:.1f} GB free"
    if free < MIN_FREE_BYTES:
        return problem(subject, text, "free some space there, or configure another folder")
    if free < wanted_bytes:
        return note(
            subject,
            f"{text}; Step-Audio-EditX, if you pull it, takes about {wanted_bytes / GB:.0f} GB",
            "free some space first, or set data_dir",
        )
    return ok(subject, text)
