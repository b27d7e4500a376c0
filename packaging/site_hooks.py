"""Hooks of mkdocs: files beside docs/ become part of the site, with the links between them and docs/ mended.

README.md becomes index.html, by a rule of mkdocs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
ADDED = (
    "README.md",
    "README.zh-CN.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "NOTICE",
    "packaging/iframe-worker.js",
    "packaging/stepaudiod.toml",
)
FOLDER = re.compile(r"(?<=\]\()(?:\.\./)?(?:docs/|packaging/)?(?=[\w.-]+[)#])")
"""The folder in the target of a link: the site has one folder."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that are beside docs/."""
    for path in ADDED:
        source = ROOT / path
        files.append(File.generated(config, source.name, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Mend the links."""
    return FOLDER.sub("", markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Declare the language of a translation, for screen readers."""
    if page.file.src_uri.endswith(".zh-CN.md"):
        return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1)
    return output
