"""Saves the responses of gradio's server for the page; run as a child process, `render FOLDER`."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from pathlib import Path

from stepaudiod.web.page import LANGUAGES, gradio_import

gc.disable()  # not needed in a process that runs for seconds
gradio_import.install()

import fastapi  # noqa: E402
import gradio  # noqa: E402
import httpx  # noqa: E402

from stepaudiod.web.page.blocks import Words, build  # noqa: E402

BASE = "http://stepaudiod.invalid"
"""Gradio's address here; the page replaces it by its own, which may be below a proxy's path."""
SHARE_TAGS = re.compile(r'\s*<meta\s+(?:property|name)="(?:og|twitter):[^>]*>')
"""Preview tags for social networks, which have URLs of other hosts."""
MANIFEST = re.compile(r"\s*<link rel=\"manifest\"[^>]*>")
BEFORE_GRADIO = r"""
		<script>
			window.gradio_config.root = new URL(".", location).href.replace(/\/$/, "");
			Object.defineProperty(navigator, "language", { get: () => "LANGUAGE" });
		</script>
		<script type="application/json" id="words">WORDS</script>
		<link rel="stylesheet" href="page/page.css">
		<link rel="icon" href="page/icon.svg">
		<script type="module" src="page/main.js"></script>
"""
SCRIPT = '<script type="module"'


async def write(folder: Path) -> None:
    words = json.loads((Path(__file__).parent / "words.json").read_text())
    for language, tag in LANGUAGES.items():
        app = _mount(build(words[language]))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            page = (await client.get("/")).raise_for_status().text
            (folder / f"index.{language}.html").write_text(_adapt(page, tag, words[language]))
            colors = (await client.get("/theme.css")).raise_for_status()
            (folder / "theme.css").write_bytes(colors.content)


def _mount(blocks: gradio.Blocks) -> fastapi.FastAPI:
    """Gradio's server, with system fonts and nothing from other hosts."""
    theme = gradio.themes.Default(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(  # more contrast for hints and buttons than the default, for accessibility
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )
    app = fastapi.FastAPI()
    gradio.mount_gradio_app(
        app, blocks, path="", footer_links=[], run_history=False, ssr_mode=False, theme=theme
    )
    return app


def _adapt(page: str, tag: str, words: Words) -> str:
    """Insert the page's scripts before gradio's; raises if the page has another form, as in a new gradio."""
    page = page.replace(f'"{BASE}"', '"."')
    page, languages = re.subn(r'lang="en"', f'lang="{tag}"', page, count=1)
    page = MANIFEST.sub("", SHARE_TAGS.sub("", page))
    before, script, after = page.partition(SCRIPT)
    if not (languages and script) or BASE in page:
        raise ValueError("this version of gradio makes a page of unknown form")
    inserted = BEFORE_GRADIO.replace("LANGUAGE", tag)
    inserted = inserted.replace("WORDS", json.dumps(words, ensure_ascii=False).replace("</", "<\\/"))
    return before + inserted + script + after


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
