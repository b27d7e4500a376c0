"""Disables core dumps: the memory of a process holds the texts, recordings and voices of its users."""

from __future__ import annotations

import resource

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
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
