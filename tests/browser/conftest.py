"""Browsers and daemons for the tests of this folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.activation import DaemonProcess
from tests.browser.browser import Browser, missing_programs
from tests.conftest import StartDaemon
from tests.web.conftest import data, hum, wav

__all__ = ["data"]

StartBrowser = Callable[..., Browser]
HERE = Path(__file__).parent
NPM = HERE.parents[1] / "build/npm"
"""Where npm puts what the tests take from it; it stays there for the next run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder needs a browser."""
    missing = missing_programs()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if missing:
                item.add_marker(pytest.mark.skip(f"not installed: {', '.join(missing)}"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder of the page."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, in the version of `package-lock.json`; verified by its digest."""
    wanted = json.loads((HERE / "package.json").read_text())["devDependencies"]["axe-core"]
    folder = NPM / "node_modules/axe-core"
    if not folder.is_dir() or json.loads((folder / "package.json").read_text())["version"] != wanted:
        npm = shutil.which("npm") or pytest.skip("not installed: npm")
        NPM.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, NPM)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=NPM, check=True, stdin=subprocess.DEVNULL)
    return (folder / "axe.min.js").read_text()


@pytest.fixture
def start_browser(tmp_path: Path) -> Iterator[StartBrowser]:
    """Start a new browser; at the end its requests and errors are checked."""
    started: list[Browser] = []

    def start(url: str, **options: object) -> Browser:
        folder = tmp_path / f"browser-{len(started)}"
        folder.mkdir()
        started.append(Browser(folder, url, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for browser in started:
        browser.close()


@pytest.fixture(scope="module")
def embedded(
    start_module_daemon: StartDaemon, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> DaemonProcess:
    """A daemon with the voices and tools that packages ship."""
    return start_module_daemon(
        {"engine": "kokoro", "cache_dir": cache, "data_dir": tmp_path_factory.mktemp("data")}
    )


@pytest.fixture(scope="module")
def step_audio(start_module_daemon: StartDaemon, data: Path, cache: Path) -> DaemonProcess:
    """A daemon with Step-Audio-EditX on random weights, whose output isn't checked."""
    settings: dict[str, object] = {
        "engine": "auto",
        "data_dir": data,
        "cache_dir": cache,
        "step_audio.dtype": "fp32",
        "step_audio.check_output": "false",
    }
    return start_module_daemon(settings)


@pytest.fixture
def humming(tmp_path: Path) -> Path:
    """A recording to upload."""
    path = tmp_path / "humming.wav"
    path.write_bytes(wav(hum()))
    return path
