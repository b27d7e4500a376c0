"""What the documents say of the four ways to deploy and of the old containers is true."""

from __future__ import annotations

import re

from stepaudiod.config import Settings
from tests.test_documents import ROOT, option_keys, text

WAYS = ROOT / "packaging" / "systemd" / "ways"


def test_every_way_is_told_with_the_commands_that_its_file_tells() -> None:
    document = text("docs/install.md")
    for way in WAYS.iterdir():
        commands = re.findall(r"(?m)^# +(sudo install .*)$", way.read_text())
        assert commands
        assert all(command in document for command in commands), way.name


def test_every_setting_that_is_named_exists() -> None:
    keys = option_keys(Settings)
    for name in ("idle_timeout", "data_dir", "step_audio.quantization", "step_audio.device"):
        assert name in keys
        assert f"`{name}" in text("docs/moving.md")
