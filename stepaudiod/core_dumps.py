"""No core dumps: the memory of a process holds the texts, recordings and voices of its users."""

from __future__ import annotations

import resource

PR_SET_DUMPABLE = 4


def limit_core_dumps() -> None:
    """No core file from here on, for this process and those that it starts: getrlimit(2)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid_core_dumps() -> None:
    """No core dump at all, also where the kernel hands it to a program (core(5)), which may ignore the limit.

    Other processes of the same user may then not read this one's memory either: prctl(2).
    """
    import ctypes  # the front starts without it

    limit_core_dumps()
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
