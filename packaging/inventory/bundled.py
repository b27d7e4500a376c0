"""Reads the Python packages in a folder as pip has installed them: versions, licences and their texts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PathDistribution
from pathlib import Path, PurePosixPath

OWN_TEXTS = Path(__file__).parent.parent / "licenses"
"""NAME-VERSION.txt: the texts of packages that have none, or not those of a library inside. It applies to the
versions that begin with VERSION, so that a later release makes the build ask for its text."""

TEXT_NAME = re.compile(r"(licen[cs]e|copying|copyright|notice|thirdpartynotices|eula)", re.IGNORECASE)
NO_TEXT = (".py", ".pyc", ".pyi", ".js", ".json", ".h", ".html", ".so")

SPDX = {
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd-3-clause and public-domain": "BSD-3-Clause AND LicenseRef-Public-Domain",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}
"""Names of licences in older metadata, and what SPDX calls them."""
EXPRESSION = re.compile(r"\(*[\w.+-]+\)*( (AND|OR|WITH) \(*[\w.+-]+\)*)*")


@dataclass(frozen=True)
class Bundled:
    """An installed package, by its folder NAME-VERSION.dist-info."""

    info: Path

    @cached_property
    def _distribution(self) -> PathDistribution:
        return PathDistribution(self.info)

    @cached_property
    def name(self) -> str:
        """Normalized, PEP 503."""
        return normalized(self._distribution.metadata["Name"])

    @property
    def version(self) -> str:
        return self._distribution.version

    @property
    def author(self) -> str:
        metadata = self._distribution.metadata
        return next((str(metadata[key]) for key in ("Author", "Author-email") if metadata[key]), "")

    @cached_property
    def _files(self) -> list[PurePosixPath]:
        """What pip has installed, relative to the folder; what lies outside of it is left out."""
        names = [PurePosixPath(path) for path in self._distribution.files or ()]
        return [name for name in names if ".." not in name.parts and "__pycache__" not in name.parts]

    @cached_property
    def texts(self) -> dict[str, str]:
        """The texts of licences and notices, by the name of the file."""
        folder = self.info.parent
        found = {
            str(name): (folder / name).read_text(errors="replace") for name in self._files if _is_text(name)
        }
        for path in sorted(OWN_TEXTS.glob("*.txt")):
            name, _, version = path.stem.rpartition("-")
            if name == self.name and f"{self.version}.".startswith(f"{version}."):
                found[path.name] = path.read_text()
        return {name: text for name, text in sorted(found.items()) if text.strip()}

    @cached_property
    def license(self) -> str:
        """An expression of SPDX if the metadata has one, else the licence's name there, else nothing."""
        metadata = self._distribution.metadata
        classifiers = [
            line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", ()) if "License" in line
        ]
        for name in (metadata["License-Expression"], metadata["License"], *classifiers):
            if name and name != "UNKNOWN" and "\n" not in name.strip():
                return SPDX.get(str(name).strip().lower(), str(name).strip())
        texts = [path.read_text(errors="replace") for path in self.info.glob("**/LICENSE*")]
        return "Apache-2.0" if any("Apache License" in text for text in texts) else ""

    @property
    def is_spdx(self) -> bool:
        return bool(EXPRESSION.fullmatch(self.license))

    @cached_property
    def patterns(self) -> list[str]:
        """Its files as patterns: `name/*` for a folder; a folder of folders alone is entered."""
        inner = [name for name in self._files if not name.parts[0].endswith(".dist-info")]
        return [*sorted(_patterns(inner, 0)), f"{self.info.name}/*"]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _patterns(names: list[PurePosixPath], depth: int) -> list[str]:
    found: list[str] = []
    for part in {name.parts[depth] for name in names}:
        here = [name for name in names if name.parts[depth] == part]
        if any(len(name.parts) == depth + 1 for name in here):
            found.append(str(here[0]))
        elif any(len(name.parts) == depth + 2 for name in here):
            found.append("/".join([*here[0].parts[: depth + 1], "*"]))
        else:
            found += _patterns(here, depth + 1)
    return found


def _is_text(name: PurePosixPath) -> bool:
    if name.suffix in NO_TEXT or "node_modules" in name.parts:
        return False
    is_of_metadata = name.parts[0].endswith(".dist-info") and name.parts[1] in ("licenses", "license_files")
    return is_of_metadata or TEXT_NAME.match(name.name) is not None


def read_folder(folder: Path) -> list[Bundled]:
    """The packages in it, by name."""
    return sorted((Bundled(path) for path in folder.glob("*.dist-info")), key=lambda each: each.name)
