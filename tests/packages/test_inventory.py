"""Each package tells the licences of everything in it, in its file copyright and in its bill of materials."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.packages.conftest import CHECKOUT, DEBS

INVENTORY = CHECKOUT / "packaging" / "inventory" / "inventory.py"
MIT = "MIT License\n\nCopyright (c) 2026 Ada\n\nPermission is hereby granted, free of charge, to any person\n"
APACHE = "Apache License\nVersion 2.0, January 2004\n\nTERMS AND CONDITIONS\n\nEND OF TERMS AND CONDITIONS\n"


def install(folder: Path, name: str, version: str, texts: dict[str, str], metadata: str = "") -> Path:
    """Write a package as pip installs it; returns its folder of metadata."""
    info = folder / f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": "",
        f"{info.name}/METADATA": f"Name: {name}\nVersion: {version}\n{metadata}\n",
        **texts,
    }
    files[f"{info.name}/RECORD"] = "".join(f"{path},,\n" for path in files)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return info


def run(what: str, folder: Path, target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, INVENTORY, what, folder, target],
        env={**os.environ, "WHEELS": str(folder), "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
    )


def bill_validator() -> Any:
    """The check of CycloneDX's schema; those that it refers to are beside it."""
    spec = find_spec("cyclonedx")
    assert spec is not None
    package = next(iter(spec.submodule_search_locations or ()))
    folder = Path(package) / "schema" / "_res"
    schemas = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    registry = jsonschema_rs.Registry(
        [(f"http://cyclonedx.org/schema/{key}", each) for key, each in schemas.items()]
    )
    return jsonschema_rs.validator_for(schemas["bom-1.6.SNAPSHOT.schema.json"], registry=registry)


def test_the_file_copyright_has_the_text_the_holder_and_the_name_of_each_licence(tmp_path: Path) -> None:
    install(tmp_path, "one", "1.0", {"one-1.0.dist-info/licenses/LICENSE": MIT}, "License: MIT License")
    install(tmp_path, "two", "2.0", {"two/COPYING": APACHE}, "License-Expression: Apache-2.0")
    done = run("copyright", tmp_path, "usr/lib/here")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("Files:\n")[1:]
    assert first.startswith(
        " usr/lib/here/one/*\n usr/lib/here/one-1.0.dist-info/*\nCopyright: Copyright (c) 2026 Ada\n"
    )
    assert "\nLicense: MIT\n" in first
    assert "\n Permission is hereby granted, free of charge" in first
    assert "\nLicense: Apache-2.0\n" in second
    assert "/usr/share/common-licenses/Apache-2.0" in second
    assert "TERMS AND CONDITIONS" not in second


def test_a_package_without_a_text_ends_the_build(tmp_path: Path) -> None:
    install(tmp_path, "silent", "1.0", {"silent/readme.txt": "License: MIT"})
    done = run("copyright", tmp_path, "usr/lib/here")
    assert done.returncode != 0
    assert (
        "no text of their licence: silent 1.0. Put each into packaging/licenses/NAME-VERSION.txt."
        in done.stderr
    )


def test_a_text_that_is_kept_here_is_for_its_versions_only(tmp_path: Path) -> None:
    info = install(tmp_path, "jieba", "0.42.1", {})
    assert "Sun Junyi" in run("copyright", tmp_path, "usr/lib/here").stdout
    shutil.rmtree(info)
    install(tmp_path, "jieba", "0.43", {})
    assert "jieba 0.43" in run("copyright", tmp_path, "usr/lib/here").stderr


def test_a_bill_of_materials_is_valid_and_the_same_each_time(tmp_path: Path) -> None:
    install(tmp_path, "one", "1.0", {"one/LICENSE": MIT}, "License: Something Odd")
    install(
        tmp_path, "two_2", "2.0+here", {"two_2/LICENSE": MIT}, "License-Expression: MIT OR (ISC AND 0BSD)"
    )
    (tmp_path / "one-1.0.tar.gz").write_bytes(b"")
    (tmp_path / "two_2-2.0+here-cp27-cp27m-win32.whl").write_bytes(b"of another Python")
    (tmp_path / "two_2-2.0+here-py3-none-any.whl").write_bytes(b"")
    (tmp_path / "DEBIAN").mkdir()
    fields = ("Package: some", "Version: 1~deb12", "Architecture: all", "Maintainer: Ada <a@b.example>")
    (tmp_path / "DEBIAN/control").write_text("\n".join([*fields, "Description: some", ""]))
    deb = tmp_path.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "--build", tmp_path, deb], check=True, capture_output=True)
    bills = []
    for _ in range(2):
        done = run("sbom", tmp_path, str(deb))
        assert done.returncode == 0, done.stderr
        bills.append(deb.with_suffix(".cdx.json").read_text())
    assert bills[0] == bills[1]
    bill = json.loads(bills[0])
    bill_validator().validate(bill)
    one, two = bill["components"]
    nothing = hashlib.sha256(b"").hexdigest()
    assert one["hashes"] == two["hashes"] == [{"alg": "SHA-256", "content": nothing}]
    assert one["licenses"] == [{"license": {"name": "Something Odd"}}]
    assert (two["purl"], two["licenses"]) == (
        "pkg:pypi/two-2@2.0%2Bhere",
        [{"expression": "MIT OR (ISC AND 0BSD)"}],
    )


PACKAGES = ["stepaudiod-voices", *(f"stepaudiod-runtime-{kind}" for kind in ("lite", "cpu", "cuda"))]


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest, repository: object) -> Path:
    """A package of others' wheels; `repository` has built it."""
    found = list(DEBS.glob(f"{request.param}_*.deb"))
    if not found:
        pytest.skip(f"{request.param} has not been built")
    return found[0]


def bundled(deb: Path) -> dict[str, list[str]]:
    """The wheels in a package, by name and version, and the texts in their .dist-info folders.

    Packages that setuptools has in its folder _vendor are a part of its wheel.
    """
    done = subprocess.run(["dpkg-deb", "--contents", deb], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if "/_vendor/" in line:
            continue
        if match := re.search(r"/([^/ ]+)-([^/ -]+)\.dist-info/(.*)$", line):
            texts = found.setdefault(f"{normal(match[1])} {match[2]}", [])
            if match[3].startswith("licenses/") and re.search(
                r"(?i)(licen[cs]e|copying|notice)[^/]*$", match[3]
            ):
                texts.append(match[3])
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_each_bundled_wheel_has_its_text_in_the_package(package: Path) -> None:
    name = package.name.partition("_")[0]
    command = 'dpkg-deb --fsys-tarfile "$0" | tar --extract --to-stdout "./usr/share/doc/$1/copyright"'
    text = subprocess.run(
        ["sh", "-c", command, package, name], capture_output=True, check=True
    ).stdout.decode()
    paragraphs = {}
    for paragraph in text.split("\nFiles:\n")[1:]:
        comment = re.search(r"^Comment: (\S+ \S+), ", paragraph, re.MULTILINE)
        assert comment, paragraph[:200]
        paragraphs[comment[1]] = paragraph
    wheels = bundled(package)
    assert wheels.keys() == paragraphs.keys()
    for wheel, texts in wheels.items():
        body = paragraphs[wheel].partition("\nLicense: ")[2]
        assert body.count("\n") > 3, wheel
        assert all(path in body for path in texts), wheel


def test_the_bill_of_materials_lists_each_bundled_wheel(package: Path) -> None:
    bill = json.loads(package.with_suffix(".cdx.json").read_text())
    bill_validator().validate(bill)
    components = {f"{each['name']} {each['version']}": each for each in bill["components"]}
    assert components.keys() == bundled(package).keys()
    lacking = [name for name, each in components.items() if not (each.get("licenses") and each["hashes"])]
    assert set(lacking) <= {"cuda-toolkit 13.0.3.0"}, "only the metapackage has none"
    name, version, _ = package.name.removesuffix(".deb").split("_")
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == (
        name,
        version,
    )
