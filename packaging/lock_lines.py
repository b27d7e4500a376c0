"""Turns a resolution (pylock.toml, PEP 751) into the lines of packaging/lock.

    lock_lines.py PYLOCK [PACKAGE...]

One line for each package, with the digests of the files that pip selects on the supported interpreters and
machines, in pip's format for requirements with hashes. Packages that are named after PYLOCK are left out.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
"""Of Debian 12, Ubuntu 24.04, Debian 13 and Ubuntu 26.04."""
MACHINES = ("x86_64", "aarch64")
GLIBC_MINOR = 36
"""glibc 2.36, the oldest of those releases'."""

Target = tuple[tuple[int, int], str]


def targets() -> list[Target]:
    return list(product(PYTHONS, MACHINES))


def tags(target: Target) -> list[Tag]:
    """The tags that pip accepts there, the preferred ones first."""
    python, machine = target
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    platforms = [
        f"{name}_{machine}"
        for minor in range(GLIBC_MINOR, 4, -1)
        for name in (f"manylinux_2_{minor}", legacy.get(minor))
        if name
    ]
    platforms.append(f"linux_{machine}")
    interpreter = f"cp{python[0]}{python[1]}"
    return [
        *cpython_tags(python, platforms=platforms),
        *compatible_tags(python, interpreter, platforms=platforms),
    ]


def is_wanted(package: dict[str, Any], target: Target) -> bool:
    (major, minor), machine = target
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{major}.{minor}.0",
        "python_version": f"{major}.{minor}",
        "sys_platform": "linux",
    }
    return "marker" not in package or Marker(package["marker"]).evaluate(environment)


def selected(package: dict[str, Any], target: Target) -> dict[str, Any] | None:
    """The file that pip selects: the best wheel, or else the source distribution, which pip builds."""
    order = {tag: place for place, tag in enumerate(tags(target))}
    found = []
    for wheel in package.get("wheels", []):
        name = wheel.get("name") or wheel["url"].rpartition("/")[2]
        places = [order[tag] for tag in parse_wheel_filename(name)[3] if tag in order]
        if places:
            found.append((min(places), name, wheel))
    if found:
        chosen: dict[str, Any] = min(found, key=lambda each: each[:2])[2]
        return chosen
    return package.get("sdist")


def requirement(package: dict[str, Any], wanted: Sequence[Target]) -> str:
    """The package in its exact version, on the interpreters that need it."""
    # === matches only this build: 2.13.0 alone also matches 2.13.0+cpu
    equals = "===" if package["name"] == "torch" else "=="
    line = f"{package['name']}{equals}{package['version']}"
    oldest = min(python for python, _ in wanted)
    if oldest != PYTHONS[0]:
        line += f' ; python_version >= "{oldest[0]}.{oldest[1]}"'
    return line


def lines(pylock: dict[str, Any], left_out: Sequence[str]) -> Iterator[str]:
    """Yield the lines; report on stderr which packages some machine can't have."""
    for package in pylock["packages"]:
        wanted = [target for target in targets() if is_wanted(package, target)]
        if not wanted or package["name"] in left_out:
            continue
        files = {target: selected(package, target) for target in wanted}
        for (python, machine), file in files.items():
            if file is None:
                text = f"{package['name']} {package['version']} has no file for Python {python} on {machine}"
                print(text, file=sys.stderr)
        digests = dict.fromkeys(file["hashes"]["sha256"] for file in files.values() if file)
        yield " ".join([requirement(package, wanted), *(f"--hash=sha256:{each}" for each in digests)])


if __name__ == "__main__":
    print("# Written by `make lock-deb`.")
    for each in lines(tomllib.loads(Path(sys.argv[1]).read_text()), sys.argv[2:]):
        print(each)
