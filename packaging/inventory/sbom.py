"""Writes the bill of materials of a package, CycloneDX 1.6: its Python packages and their digests.

The same package gives the same file: the serial number is made of the contents, the time is the changelog's.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bundled import Bundled, normalized
from pip._vendor.packaging.tags import parse_tag, sys_tags

SOURCES = Path(__file__).parent.parent / "av" / "sources.txt"


def sbom_of(packages: list[Bundled], package: str, version: str, arch: str, files: Path) -> str:
    """The file for a package of Debian; `files` is the folder of what pip has installed from."""
    purl = f"pkg:deb/debian/{package}@{version}?arch={arch}"
    components = [_component(each, files) for each in packages]
    digest = uuid.uuid5(uuid.NAMESPACE_URL, purl + json.dumps(components, sort_keys=True))
    time = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{digest}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": purl,
                "name": package,
                "version": version,
                "purl": purl,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": components,
        "dependencies": [{"ref": purl, "dependsOn": [component["bom-ref"] for component in components]}],
    }
    return json.dumps(document, indent=1) + "\n"


def _component(package: Bundled, files: Path) -> dict[str, Any]:
    purl = f"pkg:pypi/{package.name}@{package.version.replace('+', '%2B')}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": _digest(package, files)}],
    }
    if package.is_spdx:
        component["licenses"] = [{"expression": package.license}]
    elif package.license:
        component["licenses"] = [{"license": {"name": package.license}}]
    if package.name == "av":
        component["components"] = _sources()
    return component


def _sources() -> list[dict[str, Any]]:
    """What the wheel of PyAV that is built here is made of."""
    lines = [line.split() for line in SOURCES.read_text().splitlines() if line.startswith("debian ")]
    found = []
    for _, path, digest in lines:
        name, _, version = path.rpartition("/")[2].partition(".orig.")[0].partition("_")
        purl = f"pkg:generic/{name}@{version}"
        found.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "purl": purl,
                "hashes": [{"alg": "SHA-256", "content": digest}],
                "licenses": [{"expression": "LGPL-2.1-or-later"}],
            }
        )
    return found


def _digest(package: Bundled, folder: Path) -> str:
    """The SHA-256 of the file that pip has installed: the wheel for this Python, or the source distribution.

    Raises:
        SystemExit: it isn't there.
    """
    ranks = {tag: rank for rank, tag in enumerate(sys_tags())}
    candidates = []
    for path in folder.iterdir():
        name, _, rest = path.name.partition("-")
        if (
            path.suffix == ".whl"
            and rest.startswith(f"{package.version}-")
            and normalized(name) == package.name
        ):
            tags = parse_tag("-".join(path.stem.split("-")[-3:]))
            candidates += [(ranks[tag], path) for tag in tags if tag in ranks]
        name, _, version = path.name.removesuffix(".tar.gz").rpartition("-")
        if (normalized(name), version) == (package.name, package.version):
            candidates.append((len(ranks), path))
    if not candidates:
        raise SystemExit(f"{folder} has no file of {package.name} {package.version} for this Python.")
    return hashlib.sha256(min(candidates)[1].read_bytes()).hexdigest()
