"""Permissions of the daemon's user and of the current user, read from owners and modes."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.options import ACCOUNT
from stepaudiod.ctl.privileges import user_name
from stepaudiod.port_holders import is_taken


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int
    gids: frozenset[int]

    @classmethod
    def find(cls, name: str) -> Account | None:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        return cls(name, entry.pw_uid, entry.pw_gid, frozenset(os.getgrouplist(name, entry.pw_gid)))

    @classmethod
    def of_unit(cls, properties: Mapping[str, str]) -> Account | None:
        """The account of a service: User=, Group= and SupplementaryGroups= of systemd.exec(5)."""
        account = cls.find(properties.get("User") or ACCOUNT)
        if account is None:
            return None
        names = properties.get("SupplementaryGroups", "").split()
        groups = {gid for name in names if (gid := _group_id(name)) is not None}
        group = _group_id(properties["Group"]) if properties.get("Group") else None
        gid = account.gid if group is None else group
        return replace(account, gid=gid, gids=account.gids | {gid} | groups)

    def has(self, found: os.stat_result, want: int) -> bool:
        """Whether owner and mode give it these rights (`os.R_OK`…)."""
        if self.uid == 0:
            return True
        if found.st_uid == self.uid:
            return (found.st_mode >> 6) & want == want
        if found.st_gid in self.gids:
            return (found.st_mode >> 3) & want == want
        return found.st_mode & want == want


def lacks(account: Account | None, path: Path, want: int) -> bool:
    """Whether a file's owner and mode deny these rights; None, the current user, isn't checked."""
    try:
        return account is not None and not account.has(path.stat(), want)
    except OSError as error:
        return isinstance(error, FileNotFoundError)


def socket_findings(path: Path, unit: str, url: str | None) -> Iterator[Finding]:
    """Check without a connection whether a process listens there and the user may use it, or else the URL."""
    subject = str(path)
    try:
        found = path.stat()
    except FileNotFoundError:
        yield problem(
            subject,
            "there is no such socket",
            f"systemctl enable --now {unit}, or give another one: --socket",
        )
        return
    except OSError as error:
        yield unknown(subject, f"can't be checked: {error.strerror}")
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield problem(subject, "this isn't a socket", "give another one: --socket")
        return
    if not is_taken(str(path)):
        yield problem(
            subject,
            "no process listens; the file was left by a daemon that has exited",
            f"systemctl restart {unit}",
        )
        return
    yield _user_access(path, found, url)


def _user_access(path: Path, found: os.stat_result, url: str | None) -> Finding:
    if os.access(path, os.R_OK | os.W_OK):
        return ok(str(path), "you may use it")
    if url is not None:
        return ok(str(path), f"you may not use it; stepaudioctl uses {url} for you, as every local user may")
    group = _group_name(found.st_gid)
    user = Account.find(user_name(os.geteuid()))
    if user is not None and found.st_gid in user.gids:
        return problem(
            str(path), f"you joined the group {group} after this session had begun", "log in again"
        )
    return problem(
        str(path),
        f"you may not use it; root and the group {group} may",
        f"sudo usermod -aG {group} $USER, then log in again; every local user may use the TCP ports",
    )


def account_findings() -> Iterator[Finding]:
    account = Account.find(ACCOUNT)
    if account is None:
        yield problem(f"user {ACCOUNT}", "the daemon's user does not exist", "systemd-sysusers")
        return
    missing = [name for name in ("video", "render") if _gid(name) not in account.gids | {None}]
    if missing:
        yield note(
            f"user {ACCOUNT}",
            f"isn't in the group {' and '.join(missing)}, which owns the GPUs on some systems",
            "systemd-sysusers",
        )
    else:
        yield ok(f"user {ACCOUNT}", "exists")


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _group_id(name: str) -> int | None:
    return int(name) if name.isdecimal() else _gid(name)


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
