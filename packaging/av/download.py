"""Downloads the files of the package index in sources.txt to a folder, each verified by its digest.

    python3 packaging/av/download.py SOURCES FOLDER

`pip download` would run the setup.py of a source distribution, which wants FFmpeg. The index is pip's.
"""

from __future__ import annotations

import hashlib
import html.parser
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path


class Links(html.parser.HTMLParser):
    """The links of an index page, by file name: PEP 503."""

    def __init__(self, page: str, url: str) -> None:
        super().__init__()
        self.url = url
        self.by_name: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = urllib.parse.urljoin(self.url, dict(attrs).get("href") or "")
        self.by_name[Path(urllib.parse.urlsplit(link).path).name] = link


def index_url() -> str:
    """The index of pip's configuration, or the public one."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "https://pypi.org/simple"


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=180) as answer:
        return bytes(answer.read())


def main(sources: Path, folder: Path) -> None:
    for line in sources.read_text().splitlines():
        kind, name, digest = line.split()[:3]
        path = folder / name
        if kind != "index" or (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest):
            continue
        page = f"{index_url().rstrip('/')}/{name.partition('-')[0]}/"
        url = Links(read(page).decode(), page).by_name.get(name)
        if url is None:
            raise SystemExit(f"{page} has no file {name}. Set pip's index-url to an index that has it.")
        data = read(url)
        if (found := hashlib.sha256(data).hexdigest()) != digest:
            raise SystemExit(f"{url} has the SHA-256 {found}; {sources} says {digest}.")
        path.write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
