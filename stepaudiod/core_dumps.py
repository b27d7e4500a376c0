"""Disables core dumps: the memory of a process holds the texts, recordings and voices of its users."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

PR_SET_DUMPABLE = 4


def limit_core_dumps() -> None:
    """Set the core file size limit to 0, for this process and its children: getrlimit(2)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid_core_dumps() -> None:
    """Make the process undumpable: a program that the kernel pipes dumps to (core(5)) may ignore the limit.

    Other processes of the same user can't read this process's memory then either: prctl(2).
    """
    import ctypes  # the front starts without it

    limit_core_dumps()
    with suppress(OSError):  # for `allow_inspection`: a dump has no memory at all, core(5)
        Path("/proc/self/coredump_filter").write_text("0")
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)


def allow_inspection() -> None:
    """Let processes of the same user inspect this one, as a driver does that checkpoints it: prctl(2).

    Until `forbid_core_dumps` is called again. A core dump would still hold no memory.
    """
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)
