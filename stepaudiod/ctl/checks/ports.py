"""The processes at addresses where the daemon should listen."""

from __future__ import annotations

from collections.abc import Iterator

from stepaudiod.config import Listen
from stepaudiod.ctl.checks.finding import Finding, note, ok, problem
from stepaudiod.ctl.daemons import addresses
from stepaudiod.port_holders import find_holder


def unit_findings(unit: dict[str, str]) -> Iterator[Finding]:
    """Name the processes that listen at the addresses of a socket unit that doesn't."""
    for address in addresses(unit):
        if holder := find_holder(address):
            then = f"then: systemctl restart {unit['Id']}"
            yield problem(address, f"taken: {holder.text}", f"{holder.advice}; {then}")


def hand_started_findings(listen: Listen) -> Iterator[Finding]:
    """Name the processes at the addresses of a daemon that is started by hand; it may be one of them."""
    for address in (*listen.http, *listen.api, *listen.page):
        holder = find_holder(address)
        if holder is None:
            continue
        if "stepaudiod" in holder.text:
            yield ok(address, holder.text)
        else:
            yield note(
                address,
                f"taken: {holder.text}",
                f"{holder.advice}; or listen elsewhere: [listen], make run LISTEN=",
            )
