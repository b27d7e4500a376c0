"""Memory sizes with units, as in "9.5G" or "8GiB"."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

UNITS = {"M": 10**6, "MB": 10**6, "MIB": 2**20, "G": 10**9, "GB": 10**9, "GIB": 2**30}


def memory_bytes(text: str) -> int:
    """Parse a size such as "9.5G", "9500M" or "8GiB"; anything else is a ValueError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)", text)
    unit = UNITS.get(found.group(2).upper()) if found else None
    if found is None or unit is None:
        raise ValueError('write it as "9.5G", "9500M" or "8GiB", or as "auto"')
    return round(float(found.group(1)) * unit)


def _checked(text: str) -> str:
    if text != "auto":
        memory_bytes(text)
    return text


MemorySize = Annotated[str, AfterValidator(_checked)]
