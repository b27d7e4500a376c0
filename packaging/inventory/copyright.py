"""Writes the file copyright of a package: that of the source, and the licences of the Python packages in it.

The format is Debian's DEP-5. Texts that every Debian has in /usr/share/common-licenses are referred to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bundled import Bundled

SOURCE = Path(__file__).parent.parent / "debian" / "copyright"

COMMON = [
    (
        "Apache-2.0",
        r"[ \t]*Apache License\s+(?:Version 2\.0, January 2004\s+)?(?:https?:\S+\s+)?TERMS AND CONDITIONS",
    ),
    ("GPL-3", r"[ \t]*GNU GENERAL PUBLIC LICENSE\s+Version 3, 29 June 2007"),
    ("GPL-2", r"[ \t]*GNU GENERAL PUBLIC LICENSE\s+Version 2, June 1991"),
    ("LGPL-2.1", r"[ \t]*GNU LESSER GENERAL PUBLIC LICENSE\s+Version 2\.1, February 1999"),
]
"""Names in /usr/share/common-licenses, and how their texts begin; END ends them."""
END = r"(?:additional\s+liability\.(?:\s+END OF TERMS AND CONDITIONS)?|END OF (?:THE )?TERMS AND CONDITIONS)"

HOLDER = re.compile(
    r"^[\s*#/;-]*((?:Portions )?(?:Copyright|©)[^a-z]*(?:the |by |of )?[\w\[<].*)$", re.MULTILINE
)
PROSE = re.compile(
    r"Copyright (notice|holder|owner|licen[cs]e|law|statement)s?\b|\[yyyy\]|<year>|\{yyyy\}", re.IGNORECASE
)
MAX_HOLDERS = 12


def copyright_of(packages: list[Bundled], root: str) -> str:
    """The file of a package with these Python packages in its folder `root`.

    Raises:
        SystemExit: a package has no text of its licence.
    """
    lacking = [f"{package.name} {package.version}" for package in packages if not package.texts]
    if lacking:
        raise SystemExit(
            f"These packages have no text of their licence: {', '.join(lacking)}. "
            "Put each into packaging/licenses/NAME-VERSION.txt."
        )
    seen: dict[str, str] = {}
    return "\n".join([SOURCE.read_text(), *(_paragraph(package, root, seen) for package in packages)])


def _paragraph(package: Bundled, root: str, seen: dict[str, str]) -> str:
    texts = "\n\n".join(_texts(package, seen))
    texts = "\n\n".join([texts, *_pointers(package, texts)])
    head, *others = _holders(package)
    lines = [
        "Files:",
        *(f" {root}/{pattern.replace(' ', '?')}" for pattern in package.patterns),
        f"Copyright: {head}",
        *(f" {holder}" for holder in others),
        f"License: {package.license or 'see-below'}",
        *(f" {line}" if line.strip() else " ." for line in texts.splitlines()),
        f"Comment: {package.name} {package.version}, https://pypi.org/project/{package.name}/",
    ]
    return "\n".join(lines) + "\n"


def _texts(package: Bundled, seen: dict[str, str]) -> Iterator[str]:
    for name, text in package.texts.items():
        here = f"{name} of {package.name}"
        first = seen.setdefault(text, here)
        yield f"--- {name}\n" + (
            _shortened(text).strip("\n") if first == here else f"The same as {first}, above."
        )


def _pointers(package: Bundled, body: str) -> list[str]:
    """Where the texts of the licences are that the metadata names and it only refers to."""
    paths = [
        f"/usr/share/common-licenses/{name}" for name in ("Apache-2.0", "MPL-2.0") if name in package.license
    ]
    return [f"The text is in {path}." for path in paths if path not in body]


def _shortened(text: str) -> str:
    """The text without control characters, with references for the common licences in it."""
    text = re.sub(r"[^\x20-\x7e\xa0-\U0010ffff\n\t]", "", text)
    for common, beginning in COMMON:
        reference = f"   The text of {common} is in /usr/share/common-licenses/{common}."
        text = re.sub(f"{beginning}.*?{END}", reference, text, flags=re.DOTALL)
    return text


def _holders(package: Bundled) -> list[str]:
    """The lines with a copyright in the texts, or the authors."""
    lines = [line for text in package.texts.values() for line in HOLDER.findall(_shortened(text))]
    holders = list(
        dict.fromkeys(re.sub(r"\s+", " ", line).strip() for line in lines if not PROSE.search(line))
    )
    if not holders:
        author = package.author
        return [re.sub(r"\s+", " ", author).strip() or f"the authors of {package.name}"]
    more = ["and others, in the texts below"] if len(holders) > MAX_HOLDERS else []
    return [*holders[:MAX_HOLDERS], *more]
