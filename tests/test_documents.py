"""The documents are correct: their commands run, their tables match the code, both languages agree.

In a document a comment before a code block says how it is tested:

    <!-- run -->           it runs against a real daemon, and each file that it names as output must be audio
    <!-- run, prints -->   it runs, and prints the JSON of the next block
    <!-- run, fails -->    it ends with curl's status for an HTTP error, and prints the JSON of the next block
    <!-- start -->         it starts a daemon, which becomes ready and stops at SIGTERM

A block without a comment needs root, a booted systemd or a terminal of its own, and isn't run. The blocks of
docs/api.md are run by tests/web/test_openapi.py, against a daemon with a small Step-Audio-EditX.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pydantic import BaseModel

from stepaudiod.config import Settings, load
from stepaudiod.ctl.errors import CtlError
from stepaudiod.engines.registry import BEST_FIRST
from stepaudiod.errors import StepaudiodError
from stepaudiod.web.errors import STATUSES
from tests.activation import DEADLINE_S, DaemonProcess
from tests.conftest import StartDaemon

ROOT = Path(__file__).parent.parent
BIN = Path(sys.prefix) / "bin"
API, ARCHITECTURE = "docs/api.md", "docs/architecture.md"
TRANSLATED = ("README.md", "docs/install.md", API, "docs/moving.md")
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
ENGLISH = [name for name in DOCUMENTS if not name.endswith(".zh-CN.md")]
PRINTS = ("run, prints", "run, fails")
README_WORDS = 1000

BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
NEEDS_MORE = re.compile(r"^(sudo |sed .*\| sudo |make |python3 -m venv |systemctl |journalctl |git |\.venv/)")
CURL_HTTP_ERROR = 22
"""The exit status of `curl --fail-with-body` at a status of 400 or more: curl(1)."""

CURL = re.compile(r"(?<![\w.-])curl (?=[-\"'h$])([^\n]*)")
OUTPUT = re.compile(r"(?:-o |> |to_file\(\")([\w.-]+\.\w+)")
MAGIC = {
    ".mp3": (b"ID3", b"\xff\xf3", b"\xff\xfb"),
    ".wav": (b"RIFF",),
    ".ogg": (b"OggS",),
    ".flac": (b"fLaC",),
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its mark, language and code."""

    mark: str
    language: str
    code: str

    def __str__(self) -> str:
        return self.code.strip().splitlines()[0][:60]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def chinese(name: str) -> str:
    """The name of a document's translation."""
    return name.replace(".md", ".zh-CN.md")


def blocks(name: str) -> list[Block]:
    return [Block(m["mark"] or "", m["language"], m["code"]) for m in BLOCK.finditer(text(name))]


def prose(name: str) -> str:
    """The document without its code."""
    return BLOCK.sub("", text(name))


def sections(path: Path) -> list[str]:
    """What a link may say after `#`, by the rules of GitHub and MkDocs."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", path.read_text()), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]


def rows(name: str) -> list[list[str]]:
    """The cells of every table row."""
    lines = [line for line in prose(name).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def option_keys(model: type[BaseModel], above: str = "") -> dict[str, object]:
    """Every key path of the configuration with its default."""
    keys: dict[str, object] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= option_keys(field.annotation, f"{above}{name}.")
        else:
            keys[above + name] = field.default
    return keys


def requirements(extra: str) -> set[str]:
    """Every distribution that the base installation (`""`) or an extra brings, with dependencies."""
    found: set[str] = set()
    left = _required("stepaudiod", extra)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left |= _required(name, "")
    return found


def _required(distribution: str, extra: str) -> set[str]:
    """Its direct requirements; none if it isn't installed."""
    try:
        wanted = [Requirement(line) for line in metadata.requires(distribution) or []]
    except metadata.PackageNotFoundError:
        return set()
    if extra:
        wanted = [r for r in wanted if r.marker and not r.marker.evaluate({"extra": ""})]
    return {r.name.lower() for r in wanted if not r.marker or r.marker.evaluate({"extra": extra})}


# ---- what can be run


@pytest.fixture(scope="module")
def awake(start_module_daemon: StartDaemon) -> DaemonProcess:
    """One daemon with every engine, for the commands of all documents."""
    return start_module_daemon({"engine": "auto"})


@pytest.fixture
def environ(awake: DaemonProcess, tmp_path: Path) -> dict[str, str]:
    """A user's shell: the programs, a player that stores its input, and no configuration."""
    programs = tmp_path / "programs"
    programs.mkdir()
    _program(programs / "stepaudioctl", f'exec {BIN}/stepaudioctl --socket {awake.unix_path} "$@"')
    _program(programs / "stepaudiod", f'exec {BIN}/stepaudiod "$@"')
    for player in ("pw-play", "mpv"):
        _program(programs / player, f"exec cat >> {tmp_path}/heard.wav")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("STEPAUDIOD_")}
    return inherited | {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def run(block: Block, daemon: DaemonProcess, environ: dict[str, str], folder: Path) -> str:
    """Run a command with this daemon's addresses; return its output."""
    code = block.code.replace("http://127.0.0.1:7860", daemon.url)
    code = code.replace("/run/stepaudiod.sock", daemon.unix_path)
    shell = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*shell, code], cwd=folder, env=environ, capture_output=True, text=True, timeout=DEADLINE_S
    )
    expected = CURL_HTTP_ERROR if block.mark == "run, fails" else 0
    assert done.returncode == expected, (code, done.stdout, done.stderr, daemon.log())
    return done.stdout


def marked(mark: str) -> list[Block]:
    """The blocks of all English documents that have this mark, each once."""
    return list(dict.fromkeys(b for name in ENGLISH if name != API for b in blocks(name) if b.mark == mark))


@pytest.mark.parametrize("block", marked("run"), ids=str)
def test_what_the_documents_tell_to_run_works(
    block: Block, awake: DaemonProcess, environ: dict[str, str], tmp_path: Path
) -> None:
    run(block, awake, environ, tmp_path)
    outputs = OUTPUT.findall(block.code)
    if "mpv" in block.code or re.search(r"say \"[^\"]*\"$", block.code, re.M):
        outputs.append("heard.wav")
    for name in outputs:
        audio = (tmp_path / name).read_bytes()
        assert audio.startswith(MAGIC[Path(name).suffix]), (name, audio[:8])
        assert len(audio) > 1000


def test_a_daemon_started_by_hand_as_the_documents_say_gets_ready(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (block,) = marked("start")
    command = block.code.strip().replace(".venv/bin", str(BIN))
    daemon = subprocess.Popen(
        ["bash", "-c", f"exec {command} --set 'listen.http=[\"127.0.0.1:0\"]'"],
        cwd=tmp_path,
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    with daemon:
        assert daemon.stderr is not None
        lines: list[str] = []
        while lines[-1:] != [""] and not any("ready on" in line for line in lines):
            lines.append(daemon.stderr.readline())
        daemon.send_signal(signal.SIGTERM)
        daemon.stderr.read()
    assert "ready on" in lines[-1], lines
    assert daemon.returncode == 0


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_is_run_unless_it_needs_more_than_a_test_has(name: str) -> None:
    for block in blocks(name):
        assert block.mark in ("", "run", "start") or (block.mark in PRINTS and name in (API, chinese(API)))
        if block.language in ("sh", "python") and not block.mark:
            assert all(NEEDS_MORE.match(line) for line in block.code.splitlines()), block.code


def files_with_examples() -> list[str]:
    manuals = (str(path.relative_to(ROOT)) for path in (ROOT / "packaging/manuals").glob("*.roff"))
    others = ("Makefile", "stepaudiod/web/page/static/api.js", "packaging/debian/stepaudiod.README.Debian")
    return [*DOCUMENTS, *manuals, *others]


@pytest.mark.parametrize("name", files_with_examples())
def test_every_curl_says_what_went_wrong_and_fails(name: str) -> None:
    for options in CURL.findall(text(name)):
        assert re.match(r"-sS[NL]? --fail-with-body ", options), options


def test_every_configuration_shown_is_sound(tmp_path: Path) -> None:
    examples = [block for name in DOCUMENTS for block in blocks(name) if block.language == "toml"]
    assert examples
    for block in examples:
        path = tmp_path / "stepaudiod.toml"
        path.write_text(block.code)
        assert load(path, environ={}) != Settings()


# ---- what must agree with the code


def test_the_readme_is_short() -> None:
    assert len(text("README.md").split()) <= README_WORDS


def test_the_table_of_settings_has_every_key_with_its_default() -> None:
    told = {row[0].strip("`"): row[1].strip("`") for row in rows("docs/configuration.md") if len(row) == 3}
    for key, default in option_keys(Settings).items():
        value = list(default) if isinstance(default, tuple) else default
        value = str(value) if isinstance(value, Path) else value
        assert told.get(key) == json.dumps(value), key


@pytest.mark.parametrize("name", [API, chinese(API)])
def test_the_table_of_errors_has_every_status_and_code(name: str) -> None:
    told = {(row[0], row[1].strip("`")) for row in rows(name)}
    for kind, status in STATUSES.items():
        assert issubclass(kind, StepaudiodError)
        assert (str(status), kind.code) in told, kind


def test_the_tables_of_voices_have_every_voice_and_name() -> None:
    table = rows("docs/voices.md")
    told = {row[0].strip("`"): row[1].strip("`") for row in table}
    names = {n: row[1:] for row in table for n in re.findall(r"`([^`]+)`", row[0])}
    for engine in BEST_FIRST:
        for voice in engine.voices:
            assert told[voice.id] == engine.name
    for openai_name, voices in BEST_FIRST[0].openai_voices.items():
        assert [cell.strip("`") for cell in names[openai_name]] == [voices["en"], voices["zh"]]


def test_the_exit_codes_are_told() -> None:
    codes = {row[0] for row in rows("docs/usage.md")}
    assert {str(kind.exit_code) for kind in CtlError.__subclasses__()} <= codes


def test_the_architecture_names_every_package_and_module() -> None:
    document = text(ARCHITECTURE)
    package = ROOT / "stepaudiod"
    folders = {path.parent.relative_to(package) for path in package.rglob("__init__.py")} - {Path()}
    for folder in sorted(folders):
        assert f"`{folder}/`" in document, folder
    for module in sorted(package.rglob("*.py")):
        name = str(module.relative_to(package))
        if module.name not in ("__init__.py", "__main__.py") and module.parent.name != "ctl":
            assert re.search(rf"[`\s/]{re.escape(module.name)}\b", document), name


def test_the_architecture_draws_the_layers_that_are_enforced() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    layers = setup["importlinter:contract:layers"]["layers"].replace("stepaudiod.", "").split("\n")
    wanted = [re.split(r"\s*[|:]\s*", layer.strip()) for layer in layers if layer.strip()]
    drawing = next(block.code for block in blocks(ARCHITECTURE) if block.code.startswith("__main__"))
    drawn = [re.split(r"\s+·\s+", re.split(r"\s{3,}", line.strip())[0]) for line in drawing.splitlines()]
    assert drawn == wanted


def test_the_changelog_knows_this_version() -> None:
    assert metadata.version("stepaudiod") in text("CHANGELOG.md")


@pytest.mark.parametrize("extra", ["", "kokoro", "tools", "hub", "page", "step-audio", "docs", "dev"])
def test_the_notice_names_everything_that_an_install_brings(extra: str) -> None:
    named = set(re.split(r"[\s,:()]+", text("NOTICE").lower().replace("_", "-")))
    missing = {name for name in requirements(extra) if name.replace("_", "-") not in named}
    assert not missing


# ---- what must agree with each other


@pytest.mark.parametrize("name", TRANSLATED)
def test_both_languages_have_the_same_sections(name: str) -> None:
    def headings(name: str) -> list[str]:
        return [line.split()[0] for line in prose(name).splitlines() if line.startswith("#")]

    assert headings(name) == headings(chinese(name))


@pytest.mark.parametrize("name", TRANSLATED)
def test_both_languages_have_the_same_code_in_the_same_sections(name: str) -> None:
    def by_section(name: str) -> list[list[Block]]:
        starts = [0, *(m.start() for m in re.finditer(r"^##+ ", text(name), re.M))]
        found = [
            (m.start(), Block(m["mark"] or "", m["language"], m["code"])) for m in BLOCK.finditer(text(name))
        ]
        return [
            [block for at, block in found if start <= at < end]
            for start, end in zip(starts, [*starts[1:], len(text(name))], strict=True)
        ]

    assert by_section(name) == by_section(chinese(name))


@pytest.mark.parametrize("name", TRANSLATED)
def test_both_languages_have_the_same_tables(name: str) -> None:
    def keys(name: str) -> list[tuple[int, list[str]]]:
        """The width of each row, and its code; languages differ in the order."""
        return [(len(row), sorted(re.findall(r"`([^`]+)`", " ".join(row)))) for row in rows(name)]

    assert keys(name) == keys(chinese(name))


@pytest.mark.parametrize("name", TRANSLATED)
def test_both_languages_link_to_the_same_documents(name: str) -> None:
    def links(name: str) -> set[str]:
        return {link.replace(".zh-CN", "") for link in re.findall(r"\]\(([^)#]+)", prose(name))}

    assert links(name) == links(chinese(name))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for link, section in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", prose(name)):
        if not link.startswith("https://"):
            path = (ROOT / name).parent.joinpath(link) if link else ROOT / name
            assert path.exists(), link
            assert not section or section in sections(path), f"{link}#{section}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_document_says_of_a_thing_what_only_a_person_is(name: str) -> None:
    words = r"nobody|somebody|anybody|everybody|someone|anyone|everyone|who|whom|whoever"
    assert not re.findall(rf"(?i)\b(?:{words})\b", prose(name))
