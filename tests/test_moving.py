"""The documents about the old containers are correct, and both languages agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepaudiod.config import Settings
from tests.test_documents import option_keys

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ENGLISH, CHINESE = (DOCS / name for name in ("moving.md", "moving.zh-CN.md"))
WAYS = ROOT / "packaging" / "systemd" / "ways"
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)


def table_keys(path: Path) -> list[list[str]]:
    """The words in code type in each row; their order differs between the languages."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("|")]
    return [sorted(re.findall(r"`([^`]+)`", line)) for line in lines]


def test_both_languages_have_the_same_commands_and_tables() -> None:
    assert BLOCK.findall(ENGLISH.read_text("utf-8")) == BLOCK.findall(CHINESE.read_text("utf-8"))
    assert table_keys(ENGLISH) == table_keys(CHINESE)


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        assert (DOCS / link).exists(), link


def test_every_way_is_told_with_the_commands_that_its_file_tells() -> None:
    text = ENGLISH.read_text("utf-8")
    for way in WAYS.iterdir():
        commands = re.findall(r"(?m)^# +(sudo install .*)$", way.read_text())
        assert commands
        assert all(command in text for command in commands), way.name


def test_every_setting_that_is_named_exists() -> None:
    keys = option_keys(Settings)
    for name in ("idle_timeout", "data_dir", "step_audio.quantization", "step_audio.device"):
        assert name in keys
        assert f"`{name}" in ENGLISH.read_text("utf-8")
