"""What the documents say of the four ways to deploy and of the old containers is true."""

from __future__ import annotations

import re

from stepaudiod.config import Settings
from tests.test_documents import ROOT, option_keys, text

WAYS = ROOT / "packaging" / "systemd" / "ways"


def test_every_way_is_told_with_the_commands_that_its_file_tells() -> None:
    documents = text("docs/install.md") + text("docs/moving.md")
    for way in WAYS.iterdir():
        commands = re.findall(r"(?m)^#   (s(?:udo install|ed) .*)$", way.read_text())
        assert commands
        assert all(command in documents for command in commands), way.name


def test_every_setting_that_is_named_exists() -> None:
    section = text("docs/moving.md").partition("\n## Setting by setting\n")[2].partition("\n## ")[0]
    now = [line.split("|")[3] for line in section.splitlines() if line.startswith("|")]
    named = {key for cell in now for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)?)(?: = [^`]+)?`", cell)}
    assert {"idle_timeout", "step_audio.quantization", "threads"} <= named
    assert named - {"models", "resident.toml", "lan.conf"} <= set(option_keys(Settings))
