"""The folders that the daemon writes to: are they there, are they its own, is there room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.checks.permissions import DAEMON, Account

GB = 10**9
LITTLE_BYTES = GB // 2
"""Below this the daemon soon can't keep what it makes."""


def folder_findings(
    path: Path, purpose: str, account: Account | None, wanted_bytes: int
) -> Iterator[Finding]:
    """What there is to say of one folder.

    Args:
        path: the folder.
        purpose: what it is for, in a word or two.
        account: whose it has to be; None where the daemon runs as whoever asks.
        wanted_bytes: what is still to come there.
    """
    subject = f"{purpose} folder"
    try:
        is_there = path.exists()
        is_other = is_there and not path.is_dir()
    except PermissionError:
        yield unknown(subject, f"{path} can't be looked at without rights", "sudo stepaudioctl doctor")
        return
    if not is_there and account is not None:
        yield problem(subject, f"{path} isn't there", "systemd-tmpfiles --create")
        return
    if is_other:
        yield problem(subject, f"{path} isn't a folder", f"move it away, then: mkdir {path}")
        return
    if account is not None and account.may(path, os.W_OK | os.X_OK) is False:
        yield problem(
            subject,
            f"the user {account.name} may not write to {path}",
            f"chown -R {DAEMON}:{DAEMON} {path}",
        )
        return
    yield _room(subject, path, wanted_bytes)


def _room(subject: str, path: Path, wanted_bytes: int) -> Finding:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    text = f"{path}, {free / GB:.1f} GB free"
    if free < LITTLE_BYTES:
        return problem(subject, text, "make room on that file system, or set another folder")
    if free < wanted_bytes:
        return note(
            subject,
            f"{text}; the model that can be pulled takes about {wanted_bytes / GB:.0f} GB",
            "make room first, or set data_dir",
        )
    return ok(subject, text)
