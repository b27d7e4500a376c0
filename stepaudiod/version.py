"""The commit that this code is of. Knows nothing of Debian's versions: packaging/version.sh makes them.

Source: gitrepository-layout(5).
"""

from __future__ import annotations

import os
import re

from stepaudiod import __version__

MAX_DEPTH = 5
"""As many symbolic references in a row as git follows."""

HASH = re.compile(r"[0-9a-f]{40,64}(-dirty)?")


def read_commit(folder: str) -> str:
    """The commit of the code in this folder, without starting git.

    A package and an sdist have it in the file `commit`, followed by `-dirty` if the tree had changes when
    they were built. In a checkout, and where pip has installed one, it is the commit that was checked out,
    also if files had changed.

    Returns:
        The hash, or "" if it is unknown.
    """
    try:
        found = _line(f"{folder}/commit").partition(" ")[0] or _checked_out(os.path.dirname(folder))
    except (OSError, ValueError):  # unreadable, or no text
        return ""
    return found if HASH.fullmatch(found) else ""


def _checked_out(folder: str) -> str:
    """The commit of the repository or worktree in the folder; "" if there is none."""
    git = f"{folder}/.git"
    if os.path.isfile(git):  # a worktree or a submodule: "gitdir: PATH"
        git = os.path.join(folder, _line(git).partition(" ")[2])
    found = _line(f"{git}/HEAD")
    common = os.path.join(git, _line(f"{git}/commondir"))
    for _ in range(MAX_DEPTH):
        if not found.startswith("ref: "):
            break
        ref = found.removeprefix("ref: ")
        found = _line(f"{git}/{ref}") or _line(f"{common}/{ref}") or _packed(f"{common}/packed-refs", ref)
    return found


def _line(path: str) -> str:
    """Return "" if there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _packed(path: str, ref: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return next((line.split()[0] for line in file if line.endswith(f" {ref}\n")), "")
    except FileNotFoundError:
        return ""


COMMIT = read_commit(os.path.dirname(os.path.abspath(__file__)))
"""Read once: a daemon that runs keeps its code when a checkout changes."""

VERSION_AND_COMMIT = f"{__version__} (commit {COMMIT})" if COMMIT else __version__
