"""The header that names fields that were given and are not used."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

IGNORED = "X-StepAudio-Ignored"
MAX_NAMES = 16
MAX_NAME = 64
"""Characters of one name: proxies refuse long headers."""


def ignored(names: Iterable[str]) -> dict[str, str]:
    """The header, if there are any such fields: percent-encoded names, of many the first and a count."""
    plain = [quote(name, safe="[]", errors="replace")[:MAX_NAME] for name in dict.fromkeys(names)]
    more = len(plain) - MAX_NAMES
    listed = [*plain[:MAX_NAMES], *([f"and {more} more"] if more > 0 else [])]
    return {IGNORED: ", ".join(listed)} if listed else {}
