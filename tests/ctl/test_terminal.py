"""Untrusted text can't control the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepaudiod.ctl.errors import CtlError
from stepaudiod.ctl.terminal import Terminal, plain, table
from tests.checkpoints import write_checkpoint
from tests.ctl.conftest import Ctl, StartByHand

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\u2028\r\n\t\x7f"
NAMES = ("小美", "Renée", "👩‍🎤", "می‌خواهم", "plain")


def is_harmless(text: str) -> bool:
    return text.isprintable() or all(c.isprintable() or c in "\n\u200c\u200d" for c in text)


def test_control_characters_are_escaped_and_names_are_kept() -> None:
    assert plain("\x1b[2J\x9b\u202e") == "\\x1b[2J\\x9b\\u202e"
    assert is_harmless(plain(HOSTILE))
    assert [plain(name) for name in NAMES] == list(NAMES)
    header, row = table(("A", "B"), [(HOSTILE, "x")]).split("\n")
    assert row.index("x", len(row) - 1) == header.index("B")


@pytest.mark.parametrize("as_json", [False, True])
def test_results_notes_and_errors_are_harmless(capfd: pytest.CaptureFixture[str], as_json: bool) -> None:
    terminal = Terminal(as_json=as_json, is_quiet=False)
    terminal.result({"name": HOSTILE}, f"first\n{HOSTILE}")
    terminal.note(HOSTILE)
    terminal.error(CtlError(HOSTILE))
    said = capfd.readouterr()
    assert is_harmless(said.out)
    assert is_harmless(said.err)
    if as_json:
        assert json.loads(said.out) == {"name": HOSTILE}
        assert json.loads(said.err)["error"]["message"] == HOSTILE


def test_a_voice_with_a_hostile_description_is_listed(
    start_by_hand: StartByHand, programs: Path, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "models")
    (tmp_path / "voices" / "mei").mkdir(parents=True)
    voice = {"id": "mei", "name": HOSTILE, "transcript": "", "consent": "hers", "created": 1}
    voice |= {"description": HOSTILE, "language": HOSTILE, "gender": HOSTILE}
    (tmp_path / "voices" / "mei" / "voice.json").write_text(json.dumps(voice))
    daemon = start_by_hand(data_dir=tmp_path)
    ctl = Ctl(("--socket", daemon.socket), str(programs))
    for option in ((), ("--json",)):
        listed = ctl.ok("voices", "--model", "step-audio-editx", *option).decode()
        assert is_harmless(listed)
        assert "mei" in listed
