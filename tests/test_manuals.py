"""The manual pages and completions have every option, and the shells accept them."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from stepaudiod import daemon
from stepaudiod.config import Settings
from stepaudiod.ctl.main import build_parser
from tests.test_documents import option_keys

ROOT = Path(__file__).parent.parent
PAGES = ("stepaudiod.8", "stepaudioctl.1", "stepaudiod.toml.5")
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files, as in the package build."""
    folder = tmp_path_factory.mktemp("manuals")
    subprocess.run([sys.executable, str(ROOT / "packaging/manuals"), str(folder)], check=True)
    return folder


def parsers(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its words, from argparse."""
    yield " ".join(words), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from parsers(below, *words, name)


def options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings]


def shown(page: Path) -> str:
    """The rendered page with one line per paragraph, without spaces."""
    done = subprocess.run(
        ["man", "--warnings", "--local-file", "--encoding=UTF-8", str(page)],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "500", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return re.sub(r"\s+", " ", done.stdout)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_the_usual_sections(made: Path, name: str) -> None:
    text = shown(made / name)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"):
        assert f" {section} " in text, section
    page, _, number = name.rpartition(".")
    assert text.startswith(f"{page}({number})"), "the title is as the name is typed"


def test_the_page_of_stepaudiod_is_found_under_its_units(made: Path) -> None:
    units = {path.name for path in (ROOT / "packaging/systemd").glob("*.s[eo]*")}
    names = shown(made / "stepaudiod.8").partition(" NAME ")[2].partition(" - ")[0].split(", ")
    assert set(names) == {"stepaudiod"} | units
    links = (ROOT / "packaging/debian/stepaudiod.links").read_text().split()[1::2]
    assert {link.rpartition("/")[2] for link in links} == {f"{unit}.8" for unit in units}


def test_mandoc_finds_nothing_to_warn_of(made: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc isn't installed")
    pages = [str(made / name) for name in PAGES]
    done = subprocess.run(["mandoc", "-T", "lint", *pages], capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if ": STYLE: " not in line] == []


def test_the_page_of_stepaudioctl_knows_every_command_and_option(made: Path) -> None:
    text = shown(made / "stepaudioctl.1")
    for words, parser in parsers(build_parser()):
        assert words in text
        for name in options(parser):
            assert name in text or name in ("-h", "--help"), (words, name)


def test_the_page_of_stepaudiod_knows_every_option(made: Path) -> None:
    text = shown(made / "stepaudiod.8")
    assert all(name in text for name in options(daemon.build_parser()) if name not in ("-h", "--help"))


def test_the_page_of_the_configuration_knows_every_key(made: Path) -> None:
    text = shown(made / "stepaudiod.toml.5")
    for key in option_keys(Settings):
        table, _, name = key.rpartition(".")
        variable = "STEPAUDIOD_" + key.replace(".", "__").upper()
        assert f" {name} = " in text
        assert f"Variable: {variable}" in text
        assert not table or f"THE TABLE [{table}]" in text


def test_the_page_of_the_configuration_explains_every_key(made: Path) -> None:
    text = shown(made / "stepaudiod.toml.5")

    def explained(model: type[BaseModel]) -> None:
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                explained(field.annotation)
            else:
                assert (field.description or "")[1:] in text

    explained(Settings)


def complete_in_bash(made: Path, line: str) -> set[str]:
    """Bash's completions of a line."""
    if not BASH_COMPLETION.exists():
        pytest.skip("bash-completion isn't installed")
    script = f"""
    . {BASH_COMPLETION}
    . {made}/stepaudioctl.bash
    COMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}}
    COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; COMP_KEY=9
    read -ra COMP_WORDS <<< "$COMP_LINE"
    [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _stepaudioctl
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def complete_in_fish(made: Path, line: str) -> set[str]:
    """Fish's completions of a line."""
    if shutil.which("fish") is None:
        pytest.skip("fish isn't installed")
    script = f"source {made}/stepaudioctl.fish; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
    )
    return {each.split("\t")[0] for each in done.stdout.splitlines()}


@pytest.mark.parametrize("shell", [complete_in_bash, complete_in_fish])
def test_every_command_and_option_is_offered(made: Path, shell: object) -> None:
    assert callable(shell)
    for words, parser in parsers(build_parser()):
        line = " ".join(["stepaudioctl", *words.split()])
        commands = {
            w.split()[len(words.split())]
            for w, _ in parsers(build_parser())
            if w.startswith(words) and w != words
        }
        if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
            assert commands <= shell(made, f"{line} "), words
        wanted = {name for name in options(parser) if name.startswith("--") and name != "--help"}
        assert wanted <= shell(made, f"{line} --"), words


@pytest.mark.parametrize("shell", [complete_in_bash, complete_in_fish])
def test_the_values_of_an_option_are_offered(made: Path, shell: object) -> None:
    assert callable(shell)
    assert {"mp3", "opus", "wav"} <= shell(made, "stepaudioctl say --format ")
    assert shell(made, "stepaudioctl say --format fl") == {"flac"}


@pytest.mark.parametrize("name", ["stepaudioctl", "stepaudiod"])
def test_zsh_accepts_its_completions(made: Path, name: str) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh isn't installed")
    text = (made / f"_{name}").read_text()
    assert text.startswith(f"#compdef {name}\n")
    subprocess.run(["zsh", "--no-exec", str(made / f"_{name}")], check=True)
    known = build_parser() if name == "stepaudioctl" else daemon.build_parser()
    for words, parser in parsers(known):
        body = text.partition("_" + "_".join([name, *words.split()]) + "() {")[2].partition("\n}\n")[0]
        assert all(f"'{option}" in body for option in options(parser) if option not in ("-h", "--help")), (
            words
        )
