"""Who may use what: the socket, the folders, the GPU's nodes. Reads owners and modes, tries nothing."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown

DAEMON = "stepaudio"
"""The daemon's user, and the group of those who may use its unix socket."""


@dataclass(frozen=True)
class Account:
    """A user with the groups that the system's files give it.

    Attributes:
        name: as in passwd(5).
        uid: its number.
        gids: of all its groups.
    """

    name: str
    uid: int
    gids: frozenset[int]

    @classmethod
    def find(cls, name: str) -> Account | None:
        """The account of that name; None where there is none."""
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        return cls(name, entry.pw_uid, frozenset(os.getgrouplist(name, entry.pw_gid)))

    def may(self, path: Path, want: int) -> bool | None:
        """Whether it has these rights (`os.R_OK`…) at the path; None where that can't be seen from here."""
        folders = [*reversed(path.parents)]
        for each, rights in [*((folder, os.X_OK) for folder in folders), (path, want)]:
            try:
                found = each.stat()
            except FileNotFoundError:
                return False
            except OSError:
                return None
            if not self._has(found, rights):
                return False
        return True

    def _has(self, found: os.stat_result, want: int) -> bool:
        if self.uid == 0:
            return True
        if found.st_uid == self.uid:
            return (found.st_mode >> 6) & want == want
        if found.st_gid in self.gids:
            return (found.st_mode >> 3) & want == want
        return found.st_mode & want == want


def socket_findings(path: Path, unit: str) -> Iterator[Finding]:
    """Whether whoever asks may use the unix socket, and whether somebody listens there. Doesn't connect.

    Args:
        path: the socket.
        unit: the socket unit that makes it.
    """
    subject = str(path)
    try:
        found = path.stat()
    except FileNotFoundError:
        yield problem(
            subject,
            "there is no such socket",
            f"systemctl enable --now {unit}, or name another one: --socket",
        )
        return
    except OSError as error:
        yield unknown(subject, f"can't be looked at: {error.strerror}")
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield problem(subject, "this isn't a socket", "name another one: --socket")
        return
    if not _somebody_listens(path):
        yield problem(
            subject,
            "nobody listens; the file is left over from a daemon that ended",
            f"systemctl restart {unit}",
        )
        return
    yield _may_we_use(path, found)


def _may_we_use(path: Path, found: os.stat_result) -> Finding:
    if os.access(path, os.R_OK | os.W_OK):
        return ok(str(path), "you may use it")
    group = _group_name(found.st_gid)
    me = Account.find(_our_name())
    if me is not None and found.st_gid in me.gids:
        return problem(
            str(path), f"you are in the group {group}, but this session began before", "log in again"
        )
    return problem(
        str(path),
        f"you may not use it: it is for root and the group {group}",
        f"sudo usermod -aG {group} $USER, then log in again; the TCP ports are for everybody here",
    )


def account_findings() -> Iterator[Finding]:
    """The daemon's own user."""
    account = Account.find(DAEMON)
    if account is None:
        yield problem(
            f"user {DAEMON}", "there is no such user, and the daemon runs as it", "systemd-sysusers"
        )
        return
    missing = [name for name in ("video", "render") if _gid(name) not in account.gids | {None}]
    if missing:
        yield note(
            f"user {DAEMON}",
            f"isn't in the group {' and '.join(missing)}, to whom GPUs belong on some systems",
            "systemd-sysusers",
        )
    else:
        yield ok(f"user {DAEMON}", "is there")


def _somebody_listens(path: Path) -> bool:
    """The kernel's own list: proc_net(5). The fourth column has the flag of a listening socket."""
    listening = 0x10000
    names = {str(path), os.path.realpath(path)}
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] in names and int(fields[3], 16) & listening:
            return True
    return False


def _our_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
