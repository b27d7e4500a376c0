"""The documentation as a site: every link holds, it has a search, and it loads nothing from other hosts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.test_documents import DOCUMENTS, ROOT


class Loaded(HTMLParser):
    """The addresses that a page loads by itself: all but those of `<a>`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as by `make docs`, into another folder; a broken link is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    pages = {path.name for path in site.glob("*.html")} - {"404.html"}
    documents = {f"{Path(name).stem}.html" for name in DOCUMENTS} - {"README.html", "SECURITY.html"}
    assert pages == documents | {"index.html"}


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = Loaded(page.read_text("utf-8")).addresses
        assert loaded
        assert not [address for address in loaded if re.match(r"(?i)(https?:)?//", address)], page.name
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text("utf-8")), (
            style.name
        )


def test_the_search_knows_both_languages(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    assert index["config"]["lang"] == ["en", "zh"]
    assert {"install.html", "install.zh-CN.html"} <= {entry["location"] for entry in index["docs"]}
    assert (site / "search" / "search_index.js").exists(), "the search of a site that no server serves"
